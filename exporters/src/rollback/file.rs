//! Events as JSON lines in a file, for whatever on this host can follow a file. Each event stands there once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Attempted;

/// From this size on the file is renamed to `<path>.1`, over the one before.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Longest line that is looked at for an id: a body is below 20 kB.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// One attempt: blocking, durable when it says taken.
pub(crate) fn attempt(path: &Path, id: &str, body: &str) -> Attempted {
    match append_once(path, id, body) {
        Ok(true) => Attempted::Taken { confirmed: false, saw: "written".to_owned() },
        Ok(false) => Attempted::Taken { confirmed: false, saw: "was there already".to_owned() },
        Err(error) => Attempted::Later { saw: error.to_string(), reached: false, wait: None },
    }
}

/// False when the event stands there from before a crash.
fn append_once(path: &Path, id: &str, body: &str) -> io::Result<bool> {
    let old = path.with_added_extension("1");
    if holds(path, id)? || holds(&old, id)? {
        return Ok(false);
    }
    if fs::metadata(path).is_ok_and(|found| found.len() >= FILE_BYTES_MAX) {
        fs::rename(path, &old)?;
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    // A line that a crash tore gets its end first, so that this one begins at a line's start.
    let torn = ends_torn(&mut file)?;
    let line = format!("{}{body}\n", if torn { "\n" } else { "" });
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    Ok(true)
}

fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

/// Whether a whole line with this event's id is in the file.
fn holds(path: &Path, id: &str) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file.take(2 * FILE_BYTES_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(false);
        }
        let event: Option<serde_json::Value> = serde_json::from_slice(&line).ok();
        if event.is_some_and(|event| event.get("id").and_then(|found| found.as_str()) == Some(id)) {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Attempted;
    use super::attempt;

    #[test]
    fn an_event_stands_in_the_file_once_also_after_a_torn_line() {
        let path = std::env::temp_dir().join(format!("backburn-file-{}.jsonl", std::process::id()));
        let _absent = fs::remove_file(&path);
        let taken = |id: &str| {
            let body = format!("{{\"id\":\"{id}\",\"n\":1}}");
            assert!(matches!(attempt(&path, id, &body), Attempted::Taken { .. }));
        };
        taken("sig_1");
        taken("sig_1");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"id\":\"sig_1\",\"n\":1}\n");
        // Torn in the middle of the second event: it is written again, whole.
        fs::write(&path, format!("{text}{{\"id\":\"sig_2")).unwrap();
        taken("sig_2");
        taken("sig_2");
        let lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "{\"id\":\"sig_2\",\"n\":1}");
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            attempt(std::path::Path::new("/nonexistent/x"), "a", "{}"),
            Attempted::Later { .. }
        ));
    }
}
