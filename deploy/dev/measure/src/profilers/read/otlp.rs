//! Profiles as they come over OTLP from the OpenTelemetry eBPF profiler, which is one resource for each process.
//!
//! Only hits within a window are taken: it sends every few seconds, and began before the window.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use harness::sink::{Payload, Received};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{ProfilesDictionary, ResourceProfiles, Sample};

use crate::profilers::stacks::{Frame, Heard, Known};

/// Says what kind of code a place is in.
const FRAME_TYPE: &str = "profile.frame.type";

/// All samples in what was received that were taken within `window_ns` by the wall clock.
pub(in crate::profilers) fn read(
    received: &[Arc<Received>],
    window_ns: &Range<u64>,
    known: &[Known],
) -> Heard {
    let mut heard = Heard::new(known);
    for one in received {
        if let Payload::Profiles(request) = &one.payload {
            add(request, window_ns, known, &mut heard);
        }
    }
    heard
}

fn add(request: &ExportProfilesServiceRequest, window_ns: &Range<u64>, known: &[Known], heard: &mut Heard) {
    let Some(dictionary) = &request.dictionary else { return };
    let mut frames: HashMap<i32, Vec<Frame<'_>>> = HashMap::new();
    for resource in &request.resource_profiles {
        let pid = pid(resource, dictionary);
        let profiles = resource.scope_profiles.iter().flat_map(|scope| &scope.profiles);
        for sample in profiles.flat_map(|profile| &profile.samples) {
            let stack = frames.entry(sample.stack_index).or_insert_with(|| stack(sample, dictionary));
            let hits = sample.timestamps_unix_nano.iter().filter(|at| window_ns.contains(*at)).count();
            heard.add(known, pid, (stack, hits as u64));
        }
    }
}

fn text(dictionary: &ProfilesDictionary, at: i32) -> &str {
    let text = usize::try_from(at).ok().and_then(|at| dictionary.string_table.get(at));
    text.map_or("", String::as_str)
}

fn value<'a>(dictionary: &'a ProfilesDictionary, value: Option<&'a AnyValue>) -> (&'a str, i64) {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => (text, 0),
        Some(Value::StringValueStrindex(at)) => (text(dictionary, *at), 0),
        Some(Value::IntValue(number)) => ("", *number),
        _ => ("", 0),
    }
}

/// 0 where the resource names none.
fn pid(resource: &ResourceProfiles, dictionary: &ProfilesDictionary) -> u32 {
    let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
    let mut pids = attributes.filter_map(|attribute| {
        let key =
            if attribute.key.is_empty() { text(dictionary, attribute.key_strindex) } else { &attribute.key };
        (key == "process.pid").then(|| value(dictionary, attribute.value.as_ref()).1)
    });
    pids.next().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
}

/// Leaf first; a place with calls inlined into it is several frames.
fn stack<'a>(sample: &Sample, dictionary: &'a ProfilesDictionary) -> Vec<Frame<'a>> {
    let stack = usize::try_from(sample.stack_index).ok().and_then(|at| dictionary.stack_table.get(at));
    let places = stack.into_iter().flat_map(|stack| &stack.location_indices);
    let mut frames = Vec::new();
    for place in places.filter_map(|at| dictionary.location_table.get(usize::try_from(*at).ok()?)) {
        let is_kernel = place.attribute_indices.iter().any(|at| {
            let attribute = usize::try_from(*at).ok().and_then(|at| dictionary.attribute_table.get(at));
            attribute.is_some_and(|attribute| {
                text(dictionary, attribute.key_strindex) == FRAME_TYPE
                    && value(dictionary, attribute.value.as_ref()).0 == "kernel"
            })
        });
        let frame = |name| Frame { name, address: place.address, is_kernel };
        if place.lines.is_empty() {
            frames.push(frame(None));
        }
        for line in &place.lines {
            let function = usize::try_from(line.function_index).ok();
            let function = function.and_then(|at| dictionary.function_table.get(at));
            let name = function.map(|function| text(dictionary, function.name_strindex));
            frames.push(frame(name.filter(|name| !name.is_empty())));
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::profiles::v1development::{
        Function, KeyValueAndUnit, Line, Location, Profile, ProfilesDictionary, ResourceProfiles, Sample,
        ScopeProfiles, Stack,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::{ExportProfilesServiceRequest, Heard, add};
    use crate::profilers::stacks::{Known, Part};

    fn request() -> ExportProfilesServiceRequest {
        let strings = ["", "main.churn", "profile.frame.type", "kernel", "process.pid"];
        let line = |function_index| Line { function_index, ..Line::default() };
        let place = |address, lines, attribute_indices| Location {
            address,
            lines,
            attribute_indices,
            mapping_index: 0,
        };
        let kernel = AnyValue { value: Some(Value::StringValueStrindex(3)) };
        let dictionary = ProfilesDictionary {
            string_table: strings.map(str::to_owned).to_vec(),
            function_table: vec![Function::default(), Function { name_strindex: 1, ..Function::default() }],
            attribute_table: vec![
                KeyValueAndUnit::default(),
                KeyValueAndUnit { key_strindex: 2, value: Some(kernel), unit_strindex: 0 },
            ],
            location_table: vec![
                Location::default(),
                place(9, Vec::new(), vec![1]),
                place(5, vec![line(1)], Vec::new()),
                place(150, Vec::new(), Vec::new()),
                place(250, Vec::new(), Vec::new()),
                place(350, Vec::new(), Vec::new()),
            ],
            stack_table: vec![Stack::default(), Stack { location_indices: vec![1, 2, 3, 4, 5] }],
            ..ProfilesDictionary::default()
        };
        let pid = KeyValue {
            key: String::new(),
            key_strindex: 4,
            value: Some(AnyValue { value: Some(Value::IntValue(7)) }),
        };
        let sample =
            Sample { stack_index: 1, timestamps_unix_nano: vec![99, 100, 150, 200], ..Sample::default() };
        let profile = Profile { samples: vec![sample], ..Profile::default() };
        ExportProfilesServiceRequest {
            resource_profiles: vec![ResourceProfiles {
                resource: Some(Resource { attributes: vec![pid], ..Resource::default() }),
                scope_profiles: vec![ScopeProfiles { profiles: vec![profile], ..ScopeProfiles::default() }],
                ..ResourceProfiles::default()
            }],
            dictionary: Some(dictionary),
        }
    }

    #[test]
    fn hits_within_the_window_are_counted_and_their_callers_judged() {
        let mut known = Known { pid: 7, ..Known::default() };
        for (name, at) in [("price", 100), ("orders", 200), ("work", 300)] {
            known.read(&format!("function {name} {at}"));
        }
        let known = [known];
        let mut heard = Heard::new(&known);
        add(&request(), &(100..200), &known, &mut heard);
        assert_eq!((heard.samples, heard.named), (2, Part { part: 2, of: 8 }));
        assert_eq!((heard.callers, heard.lost), (vec![Part { part: 2, of: 2 }], None));
    }
}
