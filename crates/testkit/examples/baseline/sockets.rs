//! Exchanges over bare sockets, each on a thread that does nothing else: what no client can be more exact than.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Exchanges that a thread does in a second, of 100 ms each.
const EACH: f64 = 5.0;

pub fn run(address: SocketAddr, rate: f64, seconds: f64) -> Result<()> {
    let threads = (rate / EACH).ceil().max(1.0) as usize;
    let interval = Duration::from_secs_f64(threads as f64 / rate);
    let begin = Instant::now() + Duration::from_millis(200);
    let end = begin + Duration::from_secs_f64(seconds);
    let asking: Vec<_> = (0..threads)
        .map(|number| {
            let first = begin + interval.mul_f64(number as f64 / threads as f64);
            std::thread::Builder::new().stack_size(64 * 1024).spawn(move || ask(address, first, interval, end))
        })
        .collect::<std::io::Result<_>>()?;
    let mut took = Vec::new();
    for thread in asking {
        took.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    }
    took.sort_unstable();
    println!("{took:?}");
    Ok(())
}

fn ask(address: SocketAddr, first: Instant, interval: Duration, end: Instant) -> Result<Vec<u64>> {
    let mut took = Vec::new();
    let mut slot = first;
    let mut answer = vec![0; 32 * 1024];
    while slot < end {
        std::thread::sleep(slot.saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        let (mut have, mut whole) = (0, usize::MAX);
        while have < whole {
            let count = stream.read(&mut answer[have..])?;
            anyhow::ensure!(count > 0, "the answer ended early");
            have += count;
            if whole == usize::MAX {
                whole = length(&answer[..have]).unwrap_or(usize::MAX);
            }
        }
        took.push(begun.elapsed().as_micros() as u64);
        slot += interval;
    }
    Ok(took)
}

/// The length of the answer with its head, once that is there.
fn length(answer: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(answer).ok()?;
    let head = text.find("\r\n\r\n")? + 4;
    let body = text[..head].split("content-length: ").nth(1)?.split("\r\n").next()?;
    body.parse::<usize>().context("a length").ok().map(|body| head + body)
}
