//! A connection from its acceptance on: which fault it has met, and which protocol it speaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::net::TcpStream;

use crate::command::Command;
use crate::fault::{Fault, Make, Scheme, Stage};
use crate::reply::{Answer, Reply};
use crate::request::{Asked, Request};
use crate::state::State;
use crate::wire::{Io, Wire};
use crate::{http1, http2, tls};

/// With which an HTTP/2 client with prior knowledge begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What is the same for all requests of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) number: u64,
    pub(crate) port: u16,
    pub(crate) peer: String,
    pub(crate) secure: bool,
    pub(crate) sni: Option<String>,
    /// The command of the port or of the server name, where it is about answers.
    pub(crate) command: Option<Command>,
}

/// Serves a connection to its end. Errors are the client's, or wanted; nobody needs them.
pub(crate) async fn serve(tcp: TcpStream, scheme: Scheme, port: u16, fixed: Option<Arc<Command>>, state: Arc<State>) {
    let number = state.log.connections.fetch_add(1, Ordering::Relaxed) + 1;
    state.log.open.fetch_add(1, Ordering::Relaxed);
    let _guard = Open(&state.log.open);
    let _ = converse(tcp, scheme, port, number, fixed.as_deref(), state.clone()).await;
}

async fn converse(
    tcp: TcpStream,
    scheme: Scheme,
    port: u16,
    number: u64,
    fixed: Option<&Command>,
    state: Arc<State>,
) -> Result<()> {
    tcp.set_nodelay(true)?;
    let peer = tcp.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    if let Some(command) = fixed
        && let Some(Make::Accept(make)) = Fault::find(&command.name).map(|fault| fault.make)
    {
        Wire::new(Io::Plain(tcp)).play(make(command), &state.clock).await?;
        return Ok(());
    }
    let (mut wire, sni, mut http2, named) = if scheme == Scheme::Http {
        (Wire::new(Io::Plain(tcp)), None, false, None)
    } else {
        match tls::accept(tcp, scheme, fixed, &state).await? {
            Some(secured) => (secured.wire, secured.sni, secured.http2, secured.named),
            None => return Ok(()),
        }
    };
    let command = fixed.cloned().or(named);
    let fault = command.as_ref().and_then(|command| Fault::find(&command.name));
    if scheme == Scheme::Http {
        http2 = begins_with_preface(&mut wire).await?;
    }
    if http2 && let (Some(command), Some(Make::Preface(make))) = (&command, fault.map(|fault| fault.make)) {
        wire.play(make(command), &state.clock).await?;
        return Ok(());
    }
    let command = command.filter(|_| fault.is_some_and(|fault| fault.stage == Stage::Answer));
    let conversation = Conversation { number, port, peer, secure: scheme != Scheme::Http, sni, command };
    if http2 {
        http2::serve(wire, conversation, state).await?;
    } else {
        http1::serve(wire, conversation, state).await?;
    }
    Ok(())
}

async fn begins_with_preface(wire: &mut Wire) -> std::io::Result<bool> {
    loop {
        let length = wire.buffer.len().min(PREFACE.len());
        if wire.buffer[..length] != PREFACE[..length] {
            return Ok(false);
        }
        if length == PREFACE.len() {
            return Ok(true);
        }
        if wire.fill().await? == 0 {
            return Ok(false);
        }
    }
}

/// What is answered to a request.
pub(crate) async fn reply_to(request: &Request, conversation: &Conversation, state: &Arc<State>) -> Reply {
    let command = conversation.command.clone().unwrap_or_else(|| Command::parse(&request.target));
    if command.name == "bomb" {
        // Making one takes a while, once; other connections go on meanwhile.
        let (state, request) = (state.clone(), request.clone());
        let made = tokio::task::spawn_blocking(move || make(&command, &request, &state)).await;
        return made.unwrap_or_else(|_| Answer::new(500, "text/plain", "the bomb was not made").into());
    }
    make(&command, request, state)
}

fn make(command: &Command, request: &Request, state: &State) -> Reply {
    let asked = Asked { command, request, state };
    let name = if command.name.is_empty() { "page" } else { &command.name };
    let reply = match Fault::find(name) {
        Some(fault) if fault.stage != Stage::Answer => {
            Answer::new(400, "text/plain", format!("{name} needs a port or a server name of its own\n")).into()
        }
        Some(Fault { make: Make::Answer(make), expected, .. }) if !expected[request.scheme() as usize].is_empty() => {
            make(&asked)
        }
        Some(_) => Answer::new(501, "text/plain", format!("{name} does not exist by {}\n", request.version)).into(),
        None => Answer::new(404, "text/plain", format!("there is no fault {name}\n")).into(),
    };
    match reply {
        Reply::Answer(answer) => answer.adjust(command).into(),
        wire @ Reply::Wire(..) => wire,
    }
}

/// Counts a connection as open while it lives.
struct Open<'a>(&'a AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
