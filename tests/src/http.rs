//! A blocking HTTP/1.0 request over plain TCP, for asking local processes. Refuses TLS, redirects and reuse.
//!
//! HTTP/1.0 because the answer then ends with the connection: no chunks, no keep-alive.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

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

/// GETs `http://address/path`; `limit` counts for connecting and for each read.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    exchange(address, format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes(), limit)
}

/// POSTs a JSON text.
pub fn post_json(address: SocketAddr, path: &str, json: &str, limit: Duration) -> Result<Answer> {
    post(address, path, &[("Content-Type", "application/json")], json.as_bytes(), limit)
}

/// POSTs any bytes.
pub fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> Result<Answer> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.0\r\nHost: {address}\r\n{headers}Content-Length: {length}\r\n\r\n");
    exchange(address, &[head.as_bytes(), body].concat(), limit)
}

fn exchange(address: SocketAddr, request: &[u8], limit: Duration) -> Result<Answer> {
    let mut stream =
        TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(request).context("send request")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).context("read answer")?;
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("answer without a head: {text:.80}") };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
