//! A line of /proc/PID/maps, as the record that the kernel would have written.

use super::record::{Identity, Mmap};

/// `None` for what is not executable, and for what is no such line.
#[must_use]
pub fn mapping(pid: u32, line: &[u8]) -> Option<Mmap<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    if !field()?.contains('x') {
        return None;
    }
    let offset = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?.parse().ok()?;
    let identity =
        Identity::Inode { major: hex(major)?.try_into().ok()?, minor: hex(minor)?.try_into().ok()?, inode };
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    // As the kernel's records call it.
    let path = if path.is_empty() { b"//anon" } else { path };
    Some(Mmap { pid, start, length: end.checked_sub(start)?, offset, identity, path })
}

#[cfg(test)]
mod tests {
    use super::super::record::Identity;
    use super::mapping;

    #[test]
    fn a_line_of_maps_is_a_mapping_if_it_is_code() {
        let line = b"55e0a8a24000-55e0a8b00000 r-xp 0002e000 fe:01 1835031                    /opt/my db/etcd (deleted)";
        let found = mapping(7, line).unwrap();
        assert_eq!((found.start, found.length, found.offset), (0x55e0_a8a2_4000, 0xd_c000, 0x2e000));
        assert_eq!(found.identity, Identity::Inode { major: 0xfe, minor: 1, inode: 1_835_031 });
        assert_eq!(found.path, b"/opt/my db/etcd (deleted)");
        let anonymous = mapping(7, b"7f0000000000-7f0000001000 rwxp 00000000 00:00 0 ").unwrap();
        assert_eq!(anonymous.path, b"//anon");
        let none: [&[u8]; 5] =
            [b"", b"x", b"1-2 rw-p 0 0:0 0", b"2-1 r-xp 0 00:00 0", b"1-\xff r-xp 0 00:00 0 /x"];
        assert!(none.iter().all(|line| mapping(7, line).is_none()));
    }
}
