//! Pages of metrics: the text line by line, then as columns over several pages in a row, with a failure between them.
#![no_main]

use collectors::scrape::columns::Columns;
use collectors::scrape::exposition;
use libfuzzer_sys::fuzz_target;
use model::scrape::PointShape;

/// Small enough that pages reach it.
const SERIES_MAX: usize = 64;

/// Between two pages; no byte of UTF-8, so no page of a real member holds one.
const NEXT_PAGE: u8 = 0xff;

fuzz_target!(|data: &[u8]| {
    let lines = exposition::parse(data).count();
    assert!(lines <= data.len() + 1);
    let mut columns = Columns::new(SERIES_MAX);
    for page in data.split(|byte| *byte == NEXT_PAGE) {
        let Ok(reading) = columns.read(page, 1) else {
            columns.fail(1);
            continue;
        };
        assert_eq!(reading.values.len(), usize::try_from(reading.layout.series).unwrap());
        assert!(reading.kept <= reading.samples);
        for point in &reading.layout.points {
            assert!(usize::try_from(point.family).unwrap() < reading.layout.families.len());
            let (series, more) = match &point.shape {
                PointShape::Value { series } => (vec![*series], [None, None]),
                PointShape::Histogram { buckets: parts, count, sum }
                | PointShape::Summary { quantiles: parts, count, sum } => {
                    (parts.iter().map(|(_, series)| *series).collect(), [*count, *sum])
                }
            };
            let known = |series: u32| usize::try_from(series).unwrap() < reading.values.len();
            assert!(series.into_iter().chain(more.into_iter().flatten()).all(known));
        }
    }
});
