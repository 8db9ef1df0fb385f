//! A server's part of a TLS handshake: records, certificates, alerts. The keys of the handshake are new each
//! time, so no input comes further than to the certificates; those are what is read before they are trusted.

use crate::loopback::{Loopback, Ready, outline, told};
use crate::{Kind, Target};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const KIND: Kind = Kind {
    name: "tls",
    about: "A server's first flight of TLS: a letter that chooses the check, then the records.",
    tokens: TOKENS,
    open: || Ok(Box::new(Flights::new()?)),
};

const TOKENS: &[&[u8]] = &[
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x15\x03\x03\x00\x02\x01\x00",
    b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x17\x03\x03\x00\x10",
    b"\x16\x03\x03",
    b"\x0b\x00",
    b"\x30\x82",
    b"\x30\x80",
    b"\x06\x03\x55\x04\x03\x0c",
    b"\x17\x0d99123123595",
    b"\x18\x0f99991231235959Z",
    b"\x02\x01\xff",
    b"\xa3\x84\xff\xff\xff\xff",
    b"\xff\xff\xff",
];

struct Flights {
    loopback: Loopback,
    checks: Vec<Ready>,
}

impl Flights {
    fn new() -> anyhow::Result<Self> {
        let checks = [false, true].map(|insecure| {
            let options = json!({"request": {"tls": {"insecure": insecure}}, "expect": {"certificate": {"degraded": "9y", "down": "1d"}}});
            Ready::new("https://ADDRESS/", &options)
        });
        Ok(Self { loopback: Loopback::new()?, checks: checks.into_iter().collect::<Result<_, _>>()? })
    }

    fn check(&self, choice: u8, pieces: &[&[u8]]) -> Result<sitemon_model::Observation, String> {
        let _entered = self.loopback.runtime.enter();
        let listener = self.loopback.listen()?;
        let port = listener.local_addr().map_err(|error| format!("no port: {error}"))?.port();
        let serve = async || {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let _ = stream.set_nodelay(true);
            let mut hello = [0; 5];
            if stream.read_exact(&mut hello).await.is_err() {
                return;
            }
            let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
            if stream.read_exact(&mut rest).await.is_err() {
                return;
            }
            for piece in pieces {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let _ = stream.shutdown().await;
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        };
        self.loopback.check(&self.checks[usize::from(choice) % self.checks.len()], port, None, serve)
    }
}

impl Target for Flights {
    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let (choice, bytes) = input.split_first().unwrap_or((&0, &[]));
        let observation = self.check(*choice, &[bytes])?;
        let (one, other) = bytes.split_at(bytes.len() / 3);
        let again = self.check(*choice, &[one, other])?;
        if told(&observation, false) != told(&again, false) {
            return Err(format!(
                "differs by how it is cut:\nwhole: {}\ncut:   {}",
                told(&observation, false),
                told(&again, false)
            ));
        }
        let shown =
            observation.certificate.as_ref().map(|shown| (shown.issuer.len().min(3), shown.subject.len().min(3)));
        Ok(format!("{} {shown:?}", outline(&observation)))
    }
}
