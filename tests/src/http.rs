//! A blocking HTTP/1.0 request over TCP, with mutual TLS on demand, for asking local processes.
//!
//! HTTP/1.0 because the answer then ends with the connection: no chunks, no keep-alive. Refuses redirects and reuse.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::certs::Certs;

/// Longest answer that is read; an etcd metrics page is 200 KB.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// An answer, taken apart as far as stories need it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and headers as they came.
    pub head: String,
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl Answer {
    /// Value of a header, empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers
            .find(|(named, _)| named.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .unwrap_or_default()
    }
}

/// Where to ask, and how to get there.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        Peer { address, tls: None }
    }
}

impl Peer {
    /// Over TLS, with the client certificate of `certs`.
    pub fn with_tls(address: SocketAddr, certs: &Certs) -> Result<Peer> {
        Ok(Peer { address, tls: Some(certs.client_config()?) })
    }

    /// GETs a path; `limit` counts for connecting and for each read.
    pub fn get(&self, path: &str, limit: Duration) -> Result<Answer> {
        let host = self.address;
        self.exchange(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes(), limit)
    }

    /// POSTs any bytes.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8], limit: Duration) -> Result<Answer> {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (host, length) = (self.address, body.len());
        let head =
            format!("POST {path} HTTP/1.0\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\n\r\n");
        self.exchange(&[head.as_bytes(), body].concat(), limit)
    }

    /// POSTs a JSON text.
    pub fn post_json(&self, path: &str, json: &str, limit: Duration) -> Result<Answer> {
        self.post(path, &[("Content-Type", "application/json")], json.as_bytes(), limit)
    }

    fn exchange(&self, request: &[u8], limit: Duration) -> Result<Answer> {
        let address = self.address;
        let stream =
            TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect {address}"))?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        match &self.tls {
            None => talk(stream, request),
            Some(config) => {
                let connection = ClientConnection::new(Arc::clone(config), address.ip().into())?;
                talk(StreamOwned::new(connection, stream), request)
            }
        }
    }
}

/// [`Peer::get`] over plain TCP.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    Peer::from(address).get(path, limit)
}

/// [`Peer::post_json`] over plain TCP.
pub fn post_json(address: SocketAddr, path: &str, json: &str, limit: Duration) -> Result<Answer> {
    Peer::from(address).post_json(path, json, limit)
}

fn talk(mut stream: impl Read + Write, request: &[u8]) -> Result<Answer> {
    stream.write_all(request).context("send request")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).context("read answer")?;
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("answer without a head: {text:.80}") };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
