//! Metrics: what was written of etcd's pages against the pages, and of probes against the board.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use harness::{
    collector::written::{Item, Written, attributes, float, list, whole},
    daemon::{self, Daemon},
    etcd::Member,
    http,
    process::wait_until,
};
use serde_json::Value;

use super::{SOON, Stage};

/// etcd adds a sum up from two halves, in another order from page to page: the last bits may go back.
const SUM_SLACK: f64 = 1e-12;

/// An answer of etcd's page.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// A page of etcd, or what was written of one: values by series, spelled alike.
type Series = BTreeMap<String, f64>;

fn spelled(name: &str, labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

fn page(member: &Member) -> Result<Series> {
    let address = member.metrics_url().replace("http://", "").parse()?;
    let body = http::get(address, "/metrics", PAGE_MAX)?.body;
    let mut series = Series::new();
    for line in body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (left, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
        let (name, labels) = left.split_once('{').unwrap_or((left, "}"));
        let mut pairs = BTreeMap::new();
        for pair in labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()) {
            let (label, text) = pair.split_once("=\"").with_context(|| format!("no label: {line}"))?;
            let text = text.trim_end_matches('"');
            let bound = ["le", "quantile"].contains(&label).then(|| text.parse::<f64>().ok()).flatten();
            pairs.insert(label.to_owned(), bound.map_or(text.to_owned(), |bound| bound.to_string()));
        }
        series.insert(spelled(name, &pairs), value.parse()?);
    }
    Ok(series)
}

/// A point as the lines of a page: a histogram is one for each bucket, and count and sum.
fn unfold(name: &str, kind: &str, point: &Value, to: &mut Series) -> Result<()> {
    let own = attributes(point.get("attributes"), &Value::Null);
    let mut put = |suffix: &str, extra: Option<(&str, f64)>, value: f64| {
        let mut labels = own.clone();
        labels.extend(extra.map(|(label, bound)| (label.to_owned(), bound.to_string())));
        to.insert(spelled(&format!("{name}{suffix}"), &labels), value);
    };
    match kind {
        "gauge" | "sum" => put("", None, point.get("asDouble").and_then(float).context("no value")?),
        "histogram" => {
            let bounds: Vec<f64> = list(point.get("explicitBounds")).iter().filter_map(float).collect();
            let counts: Vec<u64> =
                list(point.get("bucketCounts")).iter().map(|count| whole(Some(count))).collect();
            ensure!(counts.len() == bounds.len() + 1, "{} buckets, {} bounds", counts.len(), bounds.len());
            ensure!(bounds.is_sorted_by(|a, b| a < b), "bounds do not rise: {bounds:?}");
            let mut below = 0;
            for (bound, count) in bounds.iter().chain(&[f64::INFINITY]).zip(&counts) {
                below += count;
                put("_bucket", Some(("le", *bound)), below as f64);
            }
            ensure!(below == whole(point.get("count")), "buckets hold {below}, {point}");
            put("_count", None, below as f64);
            put("_sum", None, point.get("sum").and_then(float).context("no sum")?);
        }
        "summary" => {
            for quantile in list(point.get("quantileValues")) {
                let of = |field| quantile.get(field).and_then(float).unwrap_or(0.0);
                put("", Some(("quantile", of("quantile"))), of("value"));
            }
            put("_count", None, whole(point.get("count")) as f64);
            put("_sum", None, point.get("sum").and_then(float).unwrap_or(0.0));
        }
        other => bail!("a point of kind {other:?}"),
    }
    Ok(())
}

fn is_of(item: &Item, member: &Member) -> bool {
    item.resource.get("etcd.member.name").is_some_and(|name| name == member.name())
        && item.service() == "etcd"
}

/// Pages of one member as they were written, by time; `cumulative` gathers the names of what only grows.
fn pages_written(items: &[Item], member: &Member) -> Result<BTreeMap<u64, (Series, Series)>> {
    let mut pages: BTreeMap<u64, (Series, Series)> = BTreeMap::new();
    // Names with dots are the agent's own observations, not the page's.
    let scraped = |item: &&Item| is_of(item, member) && !item.text("name").contains('.');
    for item in items.iter().filter(scraped) {
        let (kind, points) = item.points();
        for point in points {
            let page = pages.entry(whole(point.get("timeUnixNano"))).or_default();
            let to = if kind == "gauge" { &mut page.1 } else { &mut page.0 };
            unfold(item.text("name"), kind, point, to).with_context(|| item.text("name").to_owned())?;
        }
    }
    Ok(pages)
}

/// A scrape between two looks of ours: etcd counts who reads its page, so it tells which that is. Every series of the
/// page must be there, with a value between the two.
pub(super) fn pages_are_passed_on(stage: &Stage, written: &mut Written) -> Result<()> {
    const READERS: &str = "promhttp_metric_handler_requests_total{code=200}";
    let member = stage.incident.cluster.member(1)?;
    let first = page(member)?;
    let known = written.update()?.metrics.len();
    let from = first.get(READERS).copied().context("etcd does not count readers")?;
    let (growing, levels) = wait_until("a page after our look", SOON, || {
        let items = written.update()?.metrics.get(known..).unwrap_or_default();
        let mut pages = pages_written(items, member)?;
        // The last one may still be cut in two.
        pages.pop_last();
        Ok(pages
            .into_values()
            .find(|(growing, _)| growing.get(READERS).is_some_and(|readers| *readers > from)))
    })?;
    let last = page(member)?;
    let mut compared = 0;
    for (series, before) in &first {
        let Some(after) = last.get(series) else { continue };
        let value = growing.get(series).or_else(|| levels.get(series));
        let value = *value.with_context(|| format!("on the page, not written: {series}"))?;
        // The quantiles of a summary rise and fall.
        if growing.contains_key(series) && !series.contains("quantile=") {
            let slack = after * SUM_SLACK;
            ensure!(
                before - slack <= value && value <= after + slack,
                "{series}: {value} is not in {before} to {after}"
            );
            compared += 1;
        }
    }
    ensure!(compared > 200, "{compared} growing series");
    let invented =
        |series: &&String| !last.contains_key(*series) && !series.starts_with("scrape_") && *series != "up{}";
    let invented: Vec<_> = growing.keys().chain(levels.keys()).filter(invented).collect();
    ensure!(invented.is_empty(), "not on the page: {invented:?}");
    for constant in ["process_start_time_seconds{}", "process_max_fds{}", "etcd_server_quota_backend_bytes{}"]
    {
        ensure!(levels.get(constant) == last.get(constant), "{constant}: {:?}", levels.get(constant));
    }
    Ok(())
}

/// The agent's own histogram has the objectives' limits as bounds, and counts what the board counts.
pub(super) fn probes_are_told(agent: &Daemon, stage: &Stage, written: &mut Written) -> Result<()> {
    const KIND: &str = "linearizable_read";
    let name = stage.incident.cluster.member(1)?.name();
    let on_board =
        || daemon::probes(&agent.board()?, name, KIND).map(|(n, _)| n).context("no probes on the board");
    let least = on_board()?;
    let told = wait_until("as many probes as the board has", SOON, || {
        let mut told: BTreeMap<String, (u64, Vec<f64>)> = BTreeMap::new();
        let ours = |item: &&Item| item.text("name") == "etcd.client.probe.duration";
        let ours =
            |item: &&Item| ours(item) && item.resource.get("etcd.member.name").is_some_and(|of| of == name);
        for item in written.update()?.metrics.iter().filter(ours) {
            ensure!(item.text("unit") == "s" && item.points().0 == "histogram", "{}", item.value);
            for point in item.points().1 {
                unfold("probe", "histogram", point, &mut Series::new())?;
                let of = attributes(point.get("attributes"), &Value::Null);
                if of.get("etcd.probe.kind").is_some_and(|kind| kind == KIND) {
                    let bounds = list(point.get("explicitBounds")).iter().filter_map(float).collect();
                    let outcome = of.get("etcd.probe.outcome").cloned().unwrap_or_default();
                    told.insert(outcome, (whole(point.get("count")), bounds));
                }
            }
        }
        let count: u64 = told.values().map(|(count, _)| count).sum();
        ensure!(count >= least, "{count} of {least}");
        Ok(Some((count, told.into_values().next().unwrap_or_default().1)))
    })?;
    let most = on_board()?;
    ensure!(told.0 <= most, "{} probes told, {most} on the board", told.0);
    for limit in [0.016, 0.032, 0.128, 0.256, 1.0] {
        ensure!(told.1.contains(&limit), "{limit} is no bound: {:?}", told.1);
    }
    Ok(())
}
