//! One run of a command with the event on its stdin. No shell, hardly any environment, a time limit.
//!
//! | end | meaning |
//! |---|---|
//! | 0 | taken |
//! | 77, 78 | refused for good: not permitted, wrongly configured (sysexits) |
//! | any other, or a signal | later, with the same id |
//! | time limit | the process group is killed; later |

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time;

use super::{Attempted, sys};

/// Of what a command says on stderr, this much is kept for the journal.
const STDERR_BYTES_MAX: usize = 2048;

/// Where programs are looked for; the agent's own PATH is not handed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit codes that say that a second run would end the same way: EX_NOPERM and EX_CONFIG.
const REFUSES: [i32; 2] = [77, 78];

/// After the command's end, the wait for the last of its stderr: a grandchild may hold the pipe open.
const STDERR_GRACE: Duration = Duration::from_millis(100);

/// Why a command cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// An empty list.
    #[error("argv is empty")]
    Empty,
    /// A relative path would depend on where the agent was started.
    #[error("argv[0] with a slash must be an absolute path")]
    Relative,
}

/// Checks what can be checked before the first run.
///
/// # Errors
/// [`CommandError`]
pub(crate) fn check(argv: &[String]) -> Result<(), CommandError> {
    match argv.first() {
        None => Err(CommandError::Empty),
        Some(program) if program.is_empty() => Err(CommandError::Empty),
        Some(program) if program.contains('/') && !program.starts_with('/') => Err(CommandError::Relative),
        Some(_) => Ok(()),
    }
}

/// One attempt.
pub(crate) async fn attempt(argv: &[String], timeout: Duration, id: &str, body: &str) -> Attempted {
    let mut child = match spawn(argv, id) {
        Ok(child) => child,
        Err(error) => return Attempted::Later { saw: format!("start: {error}"), reached: false, wait: None },
    };
    let group = child.id();
    let ended = time::timeout(timeout, feed_and_wait(&mut child, body)).await;
    if let (Err(_), Some(group)) = (&ended, group) {
        // Not reaped yet, so the id is still the child's. What a command that ended in time left behind is its own affair.
        sys::kill_group(group);
    }
    match ended {
        Ok(Ok((status, said))) => judge(status, &said),
        Ok(Err(error)) => Attempted::Later { saw: format!("wait: {error}"), reached: true, wait: None },
        Err(_) => Attempted::Later { saw: format!("killed after {timeout:?}"), reached: true, wait: None },
    }
}

fn spawn(argv: &[String], id: &str) -> io::Result<Child> {
    let (program, arguments) =
        argv.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "argv is empty"))?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .env("BACKBURN_EVENT_ID", id)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

async fn feed_and_wait(child: &mut Child, body: &str) -> io::Result<(ExitStatus, String)> {
    let (stdin, mut stderr) = (child.stdin.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input may still be right: its exit code says so.
            let _broken_pipe = stdin.write_all(body.as_bytes()).await;
        }
    };
    tokio::pin!(feed);
    let mut fed = false;
    let mut said = Vec::new();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = &mut feed, if !fed => fed = true,
            more = listen(&mut stderr, &mut said), if stderr.is_some() => {
                if !more { stderr = None; }
            }
        }
    };
    let rest = async { while listen(&mut stderr, &mut said).await {} };
    // Whoever still holds the pipe after the grace is not heard.
    let _grace = time::timeout(STDERR_GRACE, rest).await;
    Ok((status, String::from_utf8_lossy(&said).trim().to_owned()))
}

/// Reads once; what is beyond the bound is read and dropped, so that the command is never blocked. False at the end.
async fn listen(stderr: &mut Option<ChildStderr>, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 1024];
    let Some(stderr) = stderr else { return false };
    match stderr.read(&mut buffer).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            let room = STDERR_BYTES_MAX.saturating_sub(said.len());
            said.extend_from_slice(buffer.get(..n.min(room)).unwrap_or_default());
            true
        }
    }
}

fn judge(status: ExitStatus, said: &str) -> Attempted {
    let saw = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    match status.code() {
        Some(0) => Attempted::Taken { confirmed: false, saw },
        Some(code) if REFUSES.contains(&code) => Attempted::Refused(saw),
        _ => Attempted::Later { saw, reached: true, wait: None },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Attempted;
    use super::{CommandError, attempt, check};

    async fn run(script: &str, body: &str) -> Attempted {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        attempt(&argv, Duration::from_millis(1500), "sig_1", body).await
    }

    #[tokio::test]
    async fn the_exit_code_is_the_answer_and_stderr_the_reason() {
        assert!(matches!(run("exit 0", "{}").await, Attempted::Taken { confirmed: false, .. }));
        let Attempted::Later { saw, reached, .. } = run("echo no room >&2; exit 3", "{}").await else {
            panic!()
        };
        assert!(saw.contains("no room") && reached, "{saw}");
        assert!(matches!(run("exit 78", "{}").await, Attempted::Refused(_)));
        assert!(matches!(run("kill -9 $$", "{}").await, Attempted::Later { .. }));
    }

    #[tokio::test]
    async fn the_event_comes_on_stdin_and_the_environment_is_bare() {
        let script = r#"read -r line; [ "$line" = '{"a":1}' ] && [ "$BACKBURN_EVENT_ID" = sig_1 ] && [ -z "$HOME$CARGO_MANIFEST_DIR" ]"#;
        assert!(matches!(run(script, "{\"a\":1}\n").await, Attempted::Taken { .. }));
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_its_children() {
        let mark = std::env::temp_dir().join(format!("backburn-orphan-{}", std::process::id()));
        let script = format!("(sleep 2.5; touch {}) & sleep 60", mark.display());
        let Attempted::Later { saw, .. } = run(&script, "{}").await else { panic!() };
        assert!(saw.starts_with("killed"), "{saw}");
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!mark.exists(), "the grandchild outlived the time limit");
    }

    #[tokio::test]
    async fn endless_stderr_and_unread_stdin_harm_nobody() {
        let body = "x".repeat(1 << 20);
        let Attempted::Later { saw, .. } =
            run("head -c 3000000 /dev/zero | tr '\\0' y >&2; exit 1", &body).await
        else {
            panic!()
        };
        assert!(saw.len() < 4096);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_was_never_reached() {
        let argv = ["/nonexistent/program".to_owned()];
        let got = attempt(&argv, Duration::from_secs(1), "sig_1", "{}").await;
        assert!(matches!(got, Attempted::Later { reached: false, .. }), "{got:?}");
        assert_eq!(check(&[]), Err(CommandError::Empty));
        assert_eq!(check(&["./x".to_owned()]), Err(CommandError::Relative));
        assert_eq!(check(&argv), Ok(()));
    }
}
