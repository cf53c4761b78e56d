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

/// Status and body of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// GETs `http://address/path`; `limit` counts for connecting and for each read.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"), limit)
}

/// POSTs a JSON text.
pub fn post_json(address: SocketAddr, path: &str, json: &str, limit: Duration) -> Result<Answer> {
    let length = json.len();
    let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json");
    exchange(address, &format!("{head}\r\nContent-Length: {length}\r\n\r\n{json}"), limit)
}

fn exchange(address: SocketAddr, request: &str, limit: Duration) -> Result<Answer> {
    let mut stream =
        TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(request.as_bytes()).context("send request")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).context("read answer")?;
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("answer without a head: {text:.80}") };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
    Ok(Answer { status, body: body.to_owned() })
}
