//! Answers of name servers, over UDP and TCP, to the real client: whatever comes, the lookup ends.
//!
//! An input's first byte says whether the number of the question is put into the answer (as every forger who sees
//! the question would), and which family is asked for; the rest is the answer.

use crate::loopback::{Loopback, Ready, outline, told};
use crate::mutate::{below, pick};
use crate::{Kind, Target};
use serde_json::json;
use sitemon_store::sample::Sample;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

pub(crate) const KIND: Kind = Kind {
    name: "dns",
    about: "A name server's answer: a byte of flags, then the message.",
    tokens: TOKENS,
    open: || Ok(Box::new(Answers::new()?)),
};

const TOKENS: &[&[u8]] = &[
    b"\xc0\x0c",
    b"\x00\x01\x00\x01",
    b"\x00\x1c\x00\x01",
    b"\x00\x05\x00\x01",
    b"\x03www\x07example\x00",
    b"\x00\x00\x0e\x10\x00\x04\x7f\x00\x00\x01",
    b"\x00\x00\x0e\x10\x00\x10",
    b"\x81\x80",
    b"\x83\x80",
    b"\x81\x83",
    b"\x81\x82",
    b"\x3f",
    b"\xc0\x00",
    b"\xff\xff\xff\xff",
];

/// The bit of an input's first byte that leaves the number of the message as it is.
const FOREIGN: u8 = 1;
/// The bit that asks for IPv4 only.
const ONE_FAMILY: u8 = 2;

/// What is waited for where the answer is none: a name server's silence ends with the check.
const PATIENCE: Duration = Duration::from_millis(30);

struct Answers {
    loopback: Loopback,
    udp: UdpSocket,
    tcp: TcpListener,
    both: Ready,
    one: Ready,
}

impl Answers {
    fn new() -> anyhow::Result<Self> {
        let loopback = Loopback::new()?;
        let entered = loopback.runtime.enter();
        // The same port for both.
        let udp = std::net::UdpSocket::bind((loopback.address, 0))?;
        udp.set_nonblocking(true)?;
        let udp = UdpSocket::from_std(udp)?;
        let server = udp.local_addr()?;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(server)?;
        let tcp = socket.listen(16)?;
        drop(entered);
        let ready = |ip: &str| {
            Ready::new(
                "http://www.example:1/",
                &json!({"request": {"resolver": [server.to_string()], "ip": ip, "dns_cache": "ttl"}}),
            )
        };
        Ok(Self { both: ready("any")?, one: ready("4")?, loopback, udp, tcp })
    }

    async fn serve(&self, flags: u8, message: &[u8]) {
        let mut question = [0; 512];
        loop {
            tokio::select! {
                asked = self.udp.recv_from(&mut question) => {
                    let Ok((length, from)) = asked else { continue };
                    // A message that does not fit is none.
                    let _ = self.udp.send_to(&answer(flags, message, &question[..length]), from).await;
                }
                accepted = self.tcp.accept() => {
                    let Ok((mut stream, _)) = accepted else { continue };
                    let mut asked = [0; 14];
                    if stream.read_exact(&mut asked).await.is_ok() {
                        let message = answer(flags, message, &asked[2..]);
                        let mut framed = (message.len() as u16).to_be_bytes().to_vec();
                        framed.extend(message);
                        let _ = stream.write_all(&framed).await;
                    }
                }
            }
        }
    }
}

/// The message, with the number of the question unless it is to stay as it is.
fn answer(flags: u8, message: &[u8], question: &[u8]) -> Vec<u8> {
    let mut answer = message.to_vec();
    if flags & FOREIGN == 0
        && let (Some(number), Some(asked)) = (answer.get_mut(..2), question.get(..2))
    {
        number.copy_from_slice(asked);
    }
    answer
}

impl Target for Answers {
    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let (flags, message) = input.split_first().unwrap_or((&0, &[]));
        let ready = if flags & ONE_FAMILY == 0 { &self.both } else { &self.one };
        let observation = self.loopback.check(ready, 0, Some(PATIENCE), async || self.serve(*flags, message).await)?;
        let told = told(&observation, false);
        if told.contains(" tls") || told.contains(" send") {
            return Err(format!("somebody was reached: {told}"));
        }
        Ok(outline(&observation))
    }

    fn make(&mut self, random: &mut Sample) -> Option<Vec<u8>> {
        const NAME: &[u8] = b"\x03www\x07example\x00";
        let mut input = vec![if random.once_in(2) { 0 } else { ONE_FAMILY }];
        let count = below(random, 5);
        let kind: u8 = if random.once_in(3) { 28 } else { 1 };
        input.extend([0, 0, 0x81, 0x80, 0, 1, 0, count as u8, 0, 0, 0, 0]);
        input.extend(NAME);
        input.extend([0, kind, 0, 1]);
        for _ in 0..count {
            input.extend(pick(&[&b"\xc0\x0c"[..], b"\x01a\xc0\x10", NAME], random));
            let (kind, data): (u8, Vec<u8>) = match random.below(3) {
                0 => (1, random.next().to_le_bytes()[..4].to_vec()),
                1 => (28, [random.next().to_le_bytes(), random.next().to_le_bytes()].concat()),
                _ => (5, b"\x01a\xc0\x10".to_vec()),
            };
            input.extend([0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            input.extend(data);
        }
        Some(input)
    }
}
