//! Undoes the content codings: gzip, deflate, br and zstd, alone or stacked, in steps of bounded output.
//!
//! A decoder says how much memory it is about to take before it takes it: the size of a window stands in the
//! first bytes of a stream. Windows over [`WINDOW_MAX`] are refused where the coding allows larger ones
//! (RFC 8878 section 3.1.1.1.2 recommends 8 MiB as what every decoder should support; large-window brotli is
//! not registered as a content coding at all).

use brotli_decompressor::{
    Allocator, BrotliDecompressStream, BrotliResult, BrotliState, HuffmanCode, SliceWrapper, SliceWrapperMut,
};
use flate2::{Decompress, FlushDecompress, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zstd::stream::raw::{DParameter, Operation};

/// How many codings may be stacked.
pub const CODINGS_MAX: usize = 4;
/// Bytes of the largest window of a zstd frame.
pub const WINDOW_MAX: u64 = 8 << 20;
/// Bytes that one step gives at most.
pub const STEP_BYTES: usize = 16 << 10;

/// Members of a gzip body that may be empty; more would only take time.
const EMPTY_MEMBERS_MAX: u32 = 1000;
/// Bytes of zlib's inflate: its window and its tables.
const INFLATE_BYTES: usize = 48 << 10;
/// Bytes of zstd's context, its tables and the workspace of its literals.
const ZSTD_CONTEXT_BYTES: usize = 160 << 10;
/// Bytes of the largest block of a zstd frame.
const ZSTD_BLOCK_BYTES: u64 = 128 << 10;
/// Bytes of brotli's state with the Huffman tables that a usual page has; what is more is seen as it comes.
const BROTLI_STATE_BYTES: usize = 64 << 10;

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes of output; 0: all input is taken in, and more is needed.
    Wrote(usize),
    /// [`Chain::held_bytes`] has grown, what it says is about to be taken: call again once it may be.
    Grew,
}

/// The codings of one body, the outermost first.
#[derive(Default)]
pub struct Chain {
    stages: Vec<Stage>,
}

/// One coding, with its output where another coding reads it.
struct Stage {
    decoder: Decoder,
    name: Box<str>,
    /// Whether any input came; an empty body is fine with any coding.
    fed: bool,
    output: Vec<u8>,
    start: usize,
    end: usize,
    written: u64,
}

enum Decoder {
    /// gzip, zlib or raw deflate.
    Inflate {
        inner: Box<Decompress>,
        gzip: bool,
        ended: bool,
        fresh: bool,
        /// Members so far with nothing in them: each takes as long as a page.
        idle: u32,
    },
    /// `deflate` before its first two bytes told whether it is zlib or raw.
    Deflate {
        first: Option<u8>,
    },
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
    /// A coding that nobody here knows, or one too many.
    Unknown(Box<str>),
}

struct Brotli {
    state: Option<BrotliState<Counted, Counted, Counted>>,
    allocated: Arc<AtomicUsize>,
    reserved: usize,
    ended: bool,
}

struct Zstd {
    decoder: Option<zstd::stream::raw::Decoder<'static>>,
    /// The frame's header until it is complete.
    header: [u8; HEADER_MAX],
    header_len: usize,
    place: ZstdPlace,
    reserved: usize,
}

/// Where in a zstd stream the decoder is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ZstdPlace {
    /// Between frames, or in a frame's header.
    Header,
    /// The header is complete and not yet handed on.
    Opening,
    /// In a frame.
    Frame,
}

/// Bytes of the longest header of a zstd frame.
const HEADER_MAX: usize = 18;

impl Chain {
    /// The chain for the values of the headers `content-encoding`, in their order.
    pub fn new(values: &[&str]) -> Self {
        let mut decoders: Vec<(Decoder, &str)> = Vec::new();
        let tokens = values.iter().flat_map(|value| value.split(',')).map(str::trim);
        for token in tokens.filter(|token| !token.is_empty() && !token.eq_ignore_ascii_case("identity")) {
            let is = |name: &str| token.eq_ignore_ascii_case(name);
            let decoder = if decoders.len() == CODINGS_MAX {
                Decoder::Unknown(format!("more than {CODINGS_MAX} codings").into())
            } else if is("gzip") || is("x-gzip") {
                Decoder::gzip()
            } else if is("deflate") {
                Decoder::Deflate { first: None }
            } else if is("br") {
                Decoder::Brotli(Box::new(Brotli::new()))
            } else if is("zstd") {
                Decoder::Zstd(Box::new(Zstd::new()))
            } else {
                let shown: String = token.chars().filter(|c| !c.is_control()).take(40).collect();
                Decoder::Unknown(format!("unknown coding `{shown}`").into())
            };
            let last = matches!(&decoder, Decoder::Unknown(_));
            decoders.push((decoder, token));
            if last {
                break;
            }
        }
        // The last that was applied is the first to be undone. What is inside an unknown one cannot be read.
        let known_inside = decoders.iter().rposition(|(decoder, _)| matches!(decoder, Decoder::Unknown(_)));
        let stages = decoders
            .into_iter()
            .enumerate()
            .filter(|(index, _)| known_inside.is_none_or(|unknown| *index == unknown))
            .rev()
            .map(|(_, (decoder, name))| Stage {
                decoder,
                name: name.to_ascii_lowercase().into(),
                fed: false,
                output: Vec::new(),
                start: 0,
                end: 0,
                written: 0,
            })
            .collect();
        Self { stages }
    }

    /// Whether there is nothing to undo.
    pub fn is_identity(&self) -> bool {
        self.stages.is_empty()
    }

    /// Bytes that the decoders hold or are about to hold.
    pub fn held_bytes(&self) -> usize {
        let buffers = self.stages.len().saturating_sub(1) * STEP_BYTES;
        buffers + self.stages.iter().map(|stage| stage.decoder.held_bytes()).sum::<usize>()
    }

    /// The largest output of any of the codings so far: what the bound on decoded bytes is held against.
    pub fn written(&self) -> u64 {
        self.stages.iter().map(|stage| stage.written).max().unwrap_or_default()
    }

    /// Takes from `input` and writes to `out`; the message says which coding is broken, and how.
    pub fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<Progress, String> {
        step(&mut self.stages, input, out)
    }

    /// Ends the body: each coding must have come to its own end.
    pub fn finish(&self) -> Result<(), String> {
        match self.stages.iter().find(|stage| stage.fed && !stage.decoder.ended()) {
            Some(stage) => Err(format!("{}: the body ends before the coding does", stage.name)),
            None => Ok(()),
        }
    }
}

fn step(stages: &mut [Stage], input: &mut &[u8], out: &mut [u8]) -> Result<Progress, String> {
    let Some((last, before)) = stages.split_last_mut() else {
        let length = input.len().min(out.len());
        out[..length].copy_from_slice(&input[..length]);
        *input = &input[length..];
        return Ok(Progress::Wrote(length));
    };
    loop {
        if before.is_empty() {
            return last.run(input, out);
        }
        let inner = &mut before[before.len() - 1];
        let mut between = std::mem::take(&mut inner.output);
        let (start, end) = (inner.start, inner.end);
        if start < end {
            let mut rest = &between[start..end];
            let progress = last.run(&mut rest, out);
            let left = rest.len();
            let inner = &mut before[before.len() - 1];
            inner.start = end - left;
            inner.output = between;
            match progress? {
                Progress::Wrote(0) => {}
                progress => return Ok(progress),
            }
        } else {
            between.resize(STEP_BYTES, 0);
            let progress = step(before, input, &mut between);
            let inner = &mut before[before.len() - 1];
            inner.output = between;
            match progress? {
                // What it took in before may be more than went into the output then.
                Progress::Wrote(0) => return last.run(&mut &[][..], out),
                Progress::Wrote(count) => (inner.start, inner.end) = (0, count),
                Progress::Grew => return Ok(Progress::Grew),
            }
        }
    }
}

impl Stage {
    fn run(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<Progress, String> {
        self.fed |= !input.is_empty();
        if !self.fed {
            return Ok(Progress::Wrote(0));
        }
        let progress = self.decoder.run(input, out).map_err(|fault| match &self.decoder {
            Decoder::Unknown(_) => fault,
            _ => format!("{}: {fault}", self.name),
        })?;
        if let Progress::Wrote(count) = progress {
            self.written += count as u64;
        }
        Ok(progress)
    }
}

/// What is said of bytes after a coding's end.
const GARBAGE: &str = "bytes after the end";

impl Decoder {
    fn gzip() -> Self {
        Self::Inflate { inner: Box::new(Decompress::new_gzip(15)), gzip: true, ended: false, fresh: true, idle: 0 }
    }

    const fn held_bytes(&self) -> usize {
        match self {
            Self::Inflate { .. } | Self::Deflate { .. } => INFLATE_BYTES,
            Self::Brotli(brotli) => brotli.reserved,
            Self::Zstd(zstd) => zstd.reserved,
            Self::Unknown(_) => 0,
        }
    }

    fn ended(&self) -> bool {
        match self {
            Self::Inflate { ended, .. } => *ended,
            Self::Deflate { .. } | Self::Unknown(_) => false,
            Self::Brotli(brotli) => brotli.ended,
            Self::Zstd(zstd) => zstd.place == ZstdPlace::Header && zstd.header_len == 0,
        }
    }

    fn run(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<Progress, String> {
        match self {
            Self::Inflate { inner, gzip, ended, fresh, idle } => inflate(inner, *gzip, ended, fresh, idle, input, out),
            Self::Deflate { first } => {
                let Some(cmf) = *first else {
                    *first = input.first().copied();
                    *input = input.get(1..).unwrap_or_default();
                    return if input.is_empty() { Ok(Progress::Wrote(0)) } else { self.run(input, out) };
                };
                let Some(&flg) = input.first() else { return Ok(Progress::Wrote(0)) };
                // RFC 1950: compression method 8 in the low bits, and the two bytes a multiple of 31. No raw
                // stream begins so: its first block would be a stored one with padding that is not zero.
                let zlib = cmf & 0x0f == 8 && (u16::from(cmf) << 8 | u16::from(flg)).is_multiple_of(31);
                let mut inner = Box::new(Decompress::new(zlib));
                let mut ended = false;
                let mut fresh = true;
                let mut head: &[u8] = &[cmf];
                let progress = inflate(&mut inner, false, &mut ended, &mut fresh, &mut 0, &mut head, out)?;
                *self = Self::Inflate { inner, gzip: false, ended, fresh, idle: 0 };
                match progress {
                    Progress::Wrote(0) => self.run(input, out),
                    progress => Ok(progress),
                }
            }
            Self::Brotli(brotli) => brotli.run(input, out),
            Self::Zstd(zstd) => zstd.run(input, out),
            Self::Unknown(what) => Err(what.to_string()),
        }
    }
}

fn inflate(
    inner: &mut Decompress,
    gzip: bool,
    ended: &mut bool,
    fresh: &mut bool,
    idle: &mut u32,
    input: &mut &[u8],
    out: &mut [u8],
) -> Result<Progress, String> {
    let mut written = 0;
    loop {
        if *ended {
            match input.first() {
                None => return Ok(Progress::Wrote(written)),
                // RFC 1952 section 2.2: members simply follow each other.
                Some(0x1f) if gzip => {
                    *idle += u32::from(inner.total_out() == 0);
                    if *idle > EMPTY_MEMBERS_MAX {
                        return Err(format!("more than {EMPTY_MEMBERS_MAX} empty members"));
                    }
                    *inner = Decompress::new_gzip(15);
                    *ended = false;
                    *fresh = false;
                }
                Some(_) => return Err(GARBAGE.to_owned()),
            }
        }
        let (before_in, before_out) = (inner.total_in(), inner.total_out());
        let status = inner.decompress(input, &mut out[written..], FlushDecompress::None).map_err(|_| {
            if gzip && !*fresh && inner.total_in() == 0 { GARBAGE.to_owned() } else { "broken data".to_owned() }
        })?;
        let consumed = (inner.total_in() - before_in) as usize;
        *input = &input[consumed..];
        let count = (inner.total_out() - before_out) as usize;
        written += count;
        match status {
            Status::StreamEnd => *ended = true,
            Status::Ok | Status::BufError if written == out.len() || (consumed == 0 && count == 0) => {
                return Ok(Progress::Wrote(written));
            }
            Status::Ok | Status::BufError => {}
        }
    }
}

impl Brotli {
    fn new() -> Self {
        Self { state: None, allocated: Arc::default(), reserved: BROTLI_STATE_BYTES, ended: false }
    }

    fn run(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<Progress, String> {
        if self.ended {
            return if input.is_empty() { Ok(Progress::Wrote(0)) } else { Err(GARBAGE.to_owned()) };
        }
        if self.state.is_none() {
            let Some(&first) = input.first() else { return Ok(Progress::Wrote(0)) };
            let bits = window_bits(first).ok_or("a large window, which no web server may send")?;
            let counted = || Counted(Arc::clone(&self.allocated));
            self.state = Some(BrotliState::new_strict(counted(), counted(), counted()));
            self.reserved = BROTLI_STATE_BYTES + ring_bytes(input, bits);
            return Ok(Progress::Grew);
        }
        let Some(state) = &mut self.state else { return Ok(Progress::Wrote(0)) };
        let (mut available_in, mut input_at) = (input.len(), 0);
        let (mut available_out, mut written, mut total) = (out.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut available_in,
            &mut input_at,
            input,
            &mut available_out,
            &mut written,
            out,
            &mut total,
            state,
        );
        *input = &input[input_at..];
        // Huffman tables beyond the usual are seen only once they are there.
        self.reserved = self.reserved.max(self.allocated.load(Ordering::Relaxed));
        match result {
            BrotliResult::ResultSuccess => {
                self.ended = true;
                if input.is_empty() || written > 0 { Ok(Progress::Wrote(written)) } else { Err(GARBAGE.to_owned()) }
            }
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(Progress::Wrote(written)),
            BrotliResult::ResultFailure => Err("broken data".to_owned()),
        }
    }
}

/// The window's bits from the first byte of a stream, RFC 7932 section 9.1; `None`: a large window.
fn window_bits(first: u8) -> Option<u32> {
    if first.trailing_zeros() > 0 {
        return Some(16);
    }
    match (first >> 1 & 7, first >> 4 & 7) {
        (0, 0) => Some(17),
        (0, 1) => None,
        (0, bits) => Some(8 + u32::from(bits)),
        (bits, _) => Some(17 + u32::from(bits)),
    }
}

/// Bytes that the ring buffer of a stream takes at most. While it grows, the old one and the new one are there
/// at once; where the first metablock is also the last, the decoder makes it just large enough.
fn ring_bytes(input: &[u8], window_bits: u32) -> usize {
    const SLACK: usize = 1 << 10;
    let window = 1usize << window_bits;
    let header_bits = if input[0].trailing_zeros() > 0 {
        1
    } else if (input[0] >> 1).trailing_zeros() >= 3 {
        7
    } else {
        4
    };
    let mut first = [0u8; 8];
    let seen = input.len().min(8);
    first[..seen].copy_from_slice(&input[..seen]);
    let bits = u64::from_le_bytes(first) >> header_bits;
    let (last, empty, nibbles) = (bits & 1 == 1, bits >> 1 & 1 == 1, bits >> 2 & 3);
    if seen >= 5 && last && !empty && nibbles < 3 {
        let length = (bits >> 4) & ((1 << (16 + 4 * nibbles)) - 1);
        return ((length as usize + 1).next_power_of_two()).min(window) + SLACK;
    }
    window + window / 2 + SLACK
}

/// Gives brotli its memory and keeps count of it.
struct Counted(Arc<AtomicUsize>);

/// Memory that brotli was given.
struct Cell<T>(Box<[T]>);

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T> SliceWrapper<T> for Cell<T> {
    fn slice(&self) -> &[T] {
        &self.0
    }
}

impl<T> SliceWrapperMut<T> for Cell<T> {
    fn slice_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

macro_rules! gives {
    ($($type:ty),*) => {$(
        impl Allocator<$type> for Counted {
            type AllocatedMemory = Cell<$type>;

            fn alloc_cell(&mut self, length: usize) -> Self::AllocatedMemory {
                self.0.fetch_add(length * size_of::<$type>(), Ordering::Relaxed);
                Cell(vec![<$type>::default(); length].into_boxed_slice())
            }

            fn free_cell(&mut self, cell: Self::AllocatedMemory) {
                self.0.fetch_sub(size_of_val(&*cell.0), Ordering::Relaxed);
            }
        }
    )*};
}

gives!(u8, u32, HuffmanCode);

impl Zstd {
    const fn new() -> Self {
        Self {
            decoder: None,
            header: [0; HEADER_MAX],
            header_len: 0,
            place: ZstdPlace::Header,
            reserved: ZSTD_CONTEXT_BYTES,
        }
    }

    fn run(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<Progress, String> {
        loop {
            match self.place {
                ZstdPlace::Header => {
                    while let Wanted::More = frame(&self.header[..self.header_len])? {
                        let Some((&byte, rest)) = input.split_first() else { return Ok(Progress::Wrote(0)) };
                        self.header[self.header_len] = byte;
                        self.header_len += 1;
                        *input = rest;
                    }
                    self.place = ZstdPlace::Opening;
                    if let Wanted::Memory(bytes) = frame(&self.header[..self.header_len])?
                        && ZSTD_CONTEXT_BYTES + bytes > self.reserved
                    {
                        self.reserved = ZSTD_CONTEXT_BYTES + bytes;
                        return Ok(Progress::Grew);
                    }
                }
                ZstdPlace::Opening => {
                    if self.decoder.is_none() {
                        let mut decoder = zstd::stream::raw::Decoder::new().map_err(|error| error.to_string())?;
                        decoder
                            .set_parameter(DParameter::WindowLogMax(WINDOW_MAX.ilog2()))
                            .map_err(|error| error.to_string())?;
                        self.decoder = Some(decoder);
                    }
                    let header = self.header;
                    let mut head = &header[..self.header_len];
                    let mut left = 1;
                    while !head.is_empty() {
                        (_, left) = self.decode(&mut head, out)?;
                    }
                    self.header_len = 0;
                    // A skippable frame may end with its header.
                    self.place = if left == 0 { ZstdPlace::Header } else { ZstdPlace::Frame };
                }
                ZstdPlace::Frame => {
                    let (written, left) = self.decode(input, out)?;
                    if left == 0 {
                        self.place = ZstdPlace::Header;
                    }
                    if written > 0 || (input.is_empty() && left != 0) {
                        return Ok(Progress::Wrote(written));
                    }
                }
            }
        }
    }

    /// Bytes written, and what the decoder still wants: 0 at a frame's end.
    fn decode(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<(usize, usize), String> {
        let decoder = self.decoder.as_mut().ok_or("no decoder")?;
        let status = decoder.run_on_buffers(input, out).map_err(|_| "broken data".to_owned())?;
        *input = &input[status.bytes_read..];
        Ok((status.bytes_written, status.remaining))
    }
}

/// What the first bytes of a zstd frame ask for.
enum Wanted {
    /// More bytes of the header.
    More,
    /// So much memory for the window and its blocks.
    Memory(usize),
}

/// Reads a frame's header, RFC 8878 section 3.1.1.1.
fn frame(header: &[u8]) -> Result<Wanted, String> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let Some((magic, rest)) = header.split_at_checked(4) else { return Ok(Wanted::More) };
    if magic[1..] == [0x2a, 0x4d, 0x18] && magic[0] & 0xf0 == 0x50 {
        // A skippable frame takes no window; its size follows.
        return Ok(if rest.len() < 4 { Wanted::More } else { Wanted::Memory(0) });
    }
    if magic != MAGIC {
        return Err("what follows is no frame".to_owned());
    }
    let Some((&descriptor, rest)) = rest.split_first() else { return Ok(Wanted::More) };
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match (descriptor >> 6, single) {
        (0, false) => 0,
        (0, true) => 1,
        (flag, _) => 1usize << flag,
    };
    let window_byte = usize::from(!single);
    if rest.len() < window_byte + dictionary + size {
        return Ok(Wanted::More);
    }
    let mut content = [0u8; 8];
    content[..size].copy_from_slice(&rest[window_byte + dictionary..][..size]);
    let content = u64::from_le_bytes(content) + if size == 2 { 256 } else { 0 };
    let window = if single {
        content
    } else {
        let base = 1u64 << (10 + (rest[0] >> 3));
        base + base / 8 * u64::from(rest[0] & 7)
    };
    if window > WINDOW_MAX {
        return Err(format!("a window of {window} bytes, more than {WINDOW_MAX}"));
    }
    let block = window.clamp(1 << 10, ZSTD_BLOCK_BYTES);
    let buffer = window + 2 * block + 64;
    let buffer = if size > 0 { buffer.min(content + 64) } else { buffer };
    Ok(Wanted::Memory((buffer + block) as usize))
}
