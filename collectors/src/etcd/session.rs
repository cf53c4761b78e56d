//! The user of one connection: logs in, and again when the token is no longer taken. Owns when that is due; refuses to let a
//! probe wait for it: while a login is under way (one call, bounded) nothing is asked, and what a failed login leaves is
//! asked without a user and says for itself what is not permitted.

use std::time::Duration;

use etcd_client::Error;
use model::probe::ProbeOutcome;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Connection, outcome};
use crate::target::Login;

/// bcrypt takes etcd 60 to 100 ms, and the login goes through raft; longer than this is a member in trouble, which the
/// probes are there to say.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two logins whatever their end: a token that is refused at once must not become a load.
const LOGIN_PAUSE: Duration = Duration::from_secs(1);

/// A password that was refused stays wrong until somebody changes it: once a minute costs etcd nothing to speak of.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Answers that mean: not with this token, or not without one.
const TOKEN_MESSAGES: [&str; 3] = [
    "etcdserver: invalid auth token",
    "etcdserver: user name is empty",
    "etcdserver: revision of auth store is old",
];

/// The answer of a member that wants no login at all.
const NOT_ENABLED: &str = "etcdserver: authentication is not enabled";

/// Where a connection stands with its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No user is configured, or the member wants none.
    Open,
    /// The first login, or one anew, is under way.
    LoggingIn,
    /// The token is good as far as is known.
    Within,
    /// The member did not answer the last login, or could not be reached; the next one follows soon.
    Unanswered,
    /// The member does not take the user or its password; the next login waits.
    Refused,
}

/// The user of one connection. Clones share where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    login: Option<Login>,
    state: watch::Sender<State>,
}

impl Default for Session {
    fn default() -> Session {
        Session::new(None)
    }
}

impl Session {
    pub(crate) fn new(login: Option<Login>) -> Session {
        let first = if login.is_some() { State::LoggingIn } else { State::Open };
        Session { login, state: watch::Sender::new(first) }
    }

    /// Whether a login is under way: what is asked now would only tell that there is no token yet.
    pub(crate) fn is_logging_in(&self) -> bool {
        *self.state.borrow() == State::LoggingIn
    }

    /// Waits for the end of a login that is under way.
    pub(crate) async fn settled(&self) {
        // The sender is ours: it never closes.
        self.state.subscribe().wait_for(|state| *state != State::LoggingIn).await.ok();
    }

    /// The connection is another one: its token is gone.
    pub(super) fn forget(&self) {
        if self.login.is_some() {
            self.state.send_if_modified(|state| {
                let had = matches!(state, State::Within | State::Open);
                *state = if had { State::LoggingIn } else { *state };
                had
            });
        }
    }

    /// Takes what a member answered: a refused token makes a login due. Gives the outcome that the answer stands for, where
    /// it is another: a member that leaves the login unanswered has not answered, whatever it says to those without a token.
    pub(crate) fn answered(&self, message: &str) -> Option<ProbeOutcome> {
        if !TOKEN_MESSAGES.iter().any(|known| message.contains(known)) {
            return None;
        }
        self.forget();
        (*self.state.borrow() == State::Unanswered).then_some(ProbeOutcome::TimedOut)
    }

    /// Logs in where that is due, until `cancel`. Returns at once where there is no user.
    pub(crate) async fn keep(&self, connection: &Mutex<Connection>, cancel: &CancellationToken) {
        let Some(login) = &self.login else { return };
        let mut state = self.state.subscribe();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Ok(_) = state.wait_for(|state| !matches!(state, State::Open | State::Within)) => {}
            }
            let pause = tokio::select! {
                () = cancel.cancelled() => return,
                pause = self.log_in(login, connection) => pause,
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// One login; how long to wait before the next.
    async fn log_in(&self, login: &Login, connection: &Mutex<Connection>) -> Duration {
        let client = connection.lock().await.client().await;
        let ended = match client {
            Ok(mut client) => timeout(LOGIN_TIMEOUT, client.update_user(Some(login.credentials()))).await,
            // The probes say why there is no connection.
            Err(_) => return self.stands(State::Unanswered, LOGIN_PAUSE),
        };
        match ended {
            Ok(Ok(())) => self.stands(State::Within, LOGIN_PAUSE),
            Ok(Err(Error::GRpcStatus(status))) if status.message().contains(NOT_ENABLED) => {
                self.stands(State::Open, LOGIN_PAUSE)
            }
            Ok(Err(error)) if outcome::of_error(&error) == ProbeOutcome::NotPermitted => {
                let error = outcome::chain(&error);
                tracing::warn!(user = %login.user, error, "etcd does not take the user or its password");
                self.stands(State::Refused, REFUSED_PAUSE)
            }
            Ok(Err(error)) => {
                tracing::debug!(error = outcome::chain(&error), "login failed");
                self.stands(State::Unanswered, LOGIN_PAUSE)
            }
            Err(_) => self.stands(State::Unanswered, LOGIN_PAUSE),
        }
    }

    fn stands(&self, state: State, pause: Duration) -> Duration {
        self.state.send_replace(state);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(Some(Login::new("agent", "secret")))
    }

    #[test]
    fn only_a_refused_token_makes_a_login_due() {
        let session = session();
        assert!(session.is_logging_in(), "the first login");
        for (message, due) in [
            ("etcdserver: permission denied", false),
            ("etcdserver: request timed out", false),
            ("etcdserver: invalid auth token", true),
            ("etcdserver: user name is empty", true),
            ("etcdserver: revision of auth store is old", true),
        ] {
            session.state.send_replace(State::Within);
            session.answered(message);
            assert_eq!(session.is_logging_in(), due, "{message}");
        }
        for (state, expected) in [(State::Refused, None), (State::Unanswered, Some(ProbeOutcome::TimedOut))] {
            session.state.send_replace(state);
            assert_eq!(session.answered("etcdserver: user name is empty"), expected, "{state:?}");
            assert_eq!(session.answered("etcdserver: permission denied"), None, "{state:?}");
            assert!(!session.is_logging_in(), "a login that failed waits for its time");
        }
    }

    #[test]
    fn without_a_user_nothing_is_ever_due() {
        let session = Session::default();
        session.answered("etcdserver: user name is empty");
        session.forget();
        assert!(!session.is_logging_in());
    }

    #[test]
    fn a_password_is_never_shown() {
        let told = format!("{:?}", session());
        assert!(told.contains("agent") && !told.contains("secret"), "{told}");
    }
}
