//! Which CPUs are online.

use std::fs;

/// The most a kernel is built for. A list that names more is not a list of CPUs.
const CPUS_MAX: usize = 8192;

/// The CPUs that are online now, ascending; at least the first.
#[must_use]
pub fn online() -> Vec<u32> {
    let cpus = parse(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default());
    // Without sysfs a machine still has one.
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// The kernel's way to write a set: `0-3,5`. What does not fit ends it.
fn parse(list: &str) -> Vec<u32> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(number(first)?..=number(last)?),
        None => Some(number(part)?..=number(part)?),
    };
    list.trim().split(',').map_while(range).flatten().take(CPUS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::{CPUS_MAX, online, parse};

    #[test]
    fn a_list_is_read_as_the_kernel_writes_it() {
        let check = |list: &str, expected: &[u32]| assert_eq!(parse(list), expected, "{list}");
        check("0-1\n", &[0, 1]);
        check("0", &[0]);
        check("0-2,4,6-7\n", &[0, 1, 2, 4, 6, 7]);
        check("", &[]);
        check("0,x,2", &[0]);
        check("3-1", &[]);
        assert_eq!(parse("0-4294967295").len(), CPUS_MAX);
        assert!(!online().is_empty());
    }
}
