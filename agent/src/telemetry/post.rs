//! The road of the agent's own spans and logs over HTTP, and over gRPC where they are not compressed (see
//! [`exporters::otlp::Dial`]): opentelemetry-otlp batches and encodes, the exporter's own client sends.
//!
//! So they follow the settings of everything else that leaves: endpoint, protocol, headers, compression, TLS
//! files and their rotation, timeout. Of the request that the crate makes only the body counts: it reads OTEL_* variables by
//! itself, and would send their headers where a file has named another receiver.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use exporters::otlp::{Direct, Sent};
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::sync::{mpsc, oneshot};

/// Requests between a batch processor and the client: each processor waits for its answer.
const WAITING_MAX: usize = 1;

/// What the crate takes for its HTTP client.
#[derive(Debug)]
pub(super) struct Post {
    parcels: mpsc::Sender<Parcel>,
}

/// The other end: the client, on the telemetry thread.
#[derive(Debug)]
pub(super) struct Road {
    direct: Direct,
    parcels: mpsc::Receiver<Parcel>,
}

#[derive(Debug)]
struct Parcel {
    body: Bytes,
    answer: oneshot::Sender<Sent>,
}

/// The telemetry thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("the agent's own telemetry has ended")]
struct Ended;

/// Both ends.
pub(super) fn road(direct: Direct) -> (Post, Road) {
    let (sender, parcels) = mpsc::channel(WAITING_MAX);
    (Post { parcels: sender }, Road { direct, parcels })
}

impl Road {
    /// Sends until nobody brings requests any more.
    pub(super) async fn run(mut self) {
        while let Some(Parcel { body, answer }) = self.parcels.recv().await {
            // Who asked may have given up meanwhile.
            let _gone = answer.send(self.direct.send(&body).await);
        }
    }
}

impl HttpClient for Post {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let parcel = Parcel { body: request.into_body(), answer };
            self.parcels.send(parcel).await.map_err(|_| Ended)?;
            response(&answered.await.map_err(|_| Ended)?)
        })
    }
}

/// The answer as the crate's retries understand it, whatever the protocol was.
fn response(sent: &Sent) -> Result<Response<Bytes>, HttpError> {
    let (status, after) = match sent {
        Sent::Taken => (200, None),
        Sent::Later(after) => (503, *after),
        Sent::Refused => (400, None),
    };
    let mut response = Response::builder().status(status);
    if let Some(after) = after {
        response = response.header("retry-after", after.as_millis().div_ceil(1000).to_string());
    }
    Ok(response.body(Bytes::new())?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_crate_reads_each_end_of_an_attempt() {
        let check = |sent: Sent, status: u16, after: Option<&str>| {
            let response = response(&sent).unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().get("retry-after").map(|value| value.to_str().unwrap()), after);
        };
        check(Sent::Taken, 200, None);
        check(Sent::Later(None), 503, None);
        check(Sent::Later(Some(Duration::from_millis(1500))), 503, Some("2"));
        check(Sent::Refused, 400, None);
    }
}
