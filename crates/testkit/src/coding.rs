//! Content codings, well made, oversized and broken.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

/// Codings as `Content-Encoding` names them, but for `deflate-raw`: deflate without the zlib frame, which some
/// servers send under the name `deflate`.
pub const CODINGS: &[&str] = &["gzip", "deflate", "deflate-raw", "br", "zstd"];

/// The name that stands in the header.
pub(crate) fn header_name(coding: &str) -> &str {
    if coding == "deflate-raw" { "deflate" } else { coding }
}

/// Encodes what `input` yields; an unknown coding leaves it as it is.
pub fn encode_from(coding: &str, mut input: impl Read) -> io::Result<Vec<u8>> {
    match coding {
        "gzip" | "x-gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            io::copy(&mut input, &mut encoder)?;
            encoder.finish()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            io::copy(&mut input, &mut encoder)?;
            encoder.finish()
        }
        "deflate-raw" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            io::copy(&mut input, &mut encoder)?;
            encoder.finish()
        }
        "br" => {
            let mut out = Vec::new();
            let params = BrotliEncoderParams { quality: 5, lgwin: 22, ..Default::default() };
            brotli::BrotliCompress(&mut input, &mut out, &params)?;
            Ok(out)
        }
        "zstd" => zstd::stream::encode_all(input, 3),
        _ => {
            let mut out = Vec::new();
            input.read_to_end(&mut out)?;
            Ok(out)
        }
    }
}

/// Encodes bytes by codings in the order in which `Content-Encoding` lists them.
pub fn encode(codings: &[&str], body: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = body.to_vec();
    for coding in codings {
        body = encode_from(coding, body.as_slice())?;
    }
    Ok(body)
}

/// A zstd frame of raw blocks that asks its reader for a window of 2 to the power of `window_log` bytes
/// (RFC 8878, 3.1.1.1.2); HTTP allows 23, that is 8 MiB (RFC 9659).
pub fn zstd_with_window(window_log: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window_log.saturating_sub(10) << 3];
    let mut blocks = body.chunks(64 * 1024).peekable();
    if blocks.peek().is_none() {
        out.extend([1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let header = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(block);
    }
    out
}

/// Brotli with the large-window extension, which is not part of RFC 7932 and which HTTP clients refuse.
pub fn brotli_with_large_window(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let params = BrotliEncoderParams { quality: 5, lgwin: 30, large_window: true, ..Default::default() };
    brotli::BrotliCompress(&mut &body[..], &mut out, &params)?;
    Ok(out)
}

/// Bombs already made, by codings and size: making one costs seconds, and a test asks for hundreds.
#[derive(Default)]
pub(crate) struct Bombs(Mutex<HashMap<(String, u64), Bytes>>);

impl Bombs {
    /// `size` zeros encoded by a list of codings such as `gzip` or `gzip,br`. Blocks while it is made.
    pub(crate) fn get(&self, codings: &str, size: u64) -> io::Result<Bytes> {
        // The lock is held on purpose: whoever asks meanwhile wants the same bomb.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bomb) = made.get(&(codings.to_owned(), size)) {
            return Ok(bomb.clone());
        }
        let mut list = codings.split(',').map(str::trim);
        let first = list.next().unwrap_or("gzip");
        let zeros = io::repeat(0).take(size);
        let mut body = if first == "br" {
            // The encoder takes 4 KiB at a time from a reader; from a buffer it is ten times as fast.
            let mut writer = brotli::CompressorWriter::new(Vec::new(), 1 << 20, 2, 22);
            io::copy(&mut io::BufReader::with_capacity(1 << 20, zeros), &mut writer)?;
            writer.flush()?;
            writer.into_inner()
        } else {
            encode_from(first, zeros)?
        };
        for coding in list {
            body = encode_from(coding, body.as_slice())?;
        }
        let bomb = Bytes::from(body);
        made.insert((codings.to_owned(), size), bomb.clone());
        Ok(bomb)
    }
}
