//! Where words and data go: stdout with its colours and its width, stderr, tables.

use super::Failure;
use super::show;
use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sitemon_model::Verdict;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};
use std::time::Duration;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What is important.
pub const STRONG: Style = Style::new().bold();
/// What is said by the way.
pub const FAINT: Style = Style::new().dimmed();
/// What is good.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What deserves a look.
pub const FAIR: Style = AnsiColor::Yellow.on_default();
/// What is bad.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is not known.
pub const UNSURE: Style = AnsiColor::Magenta.on_default();
/// No style.
pub const PLAIN: Style = Style::new();

/// The style of a verdict, by [`Verdict::number`].
pub const fn verdict_style(number: u8) -> Style {
    match number {
        0 => GOOD,
        1 => FAIR,
        2 => BAD,
        _ => UNSURE,
    }
}

/// The name of a verdict by its number.
pub const fn verdict_name(number: u8) -> &'static str {
    match number {
        0 => "up",
        1 => "degraded",
        2 => "down",
        _ => "unknown",
    }
}

/// A sign for a verdict that is readable without colours.
pub const fn verdict_sign(verdict: &Verdict) -> char {
    match verdict {
        Verdict::Up => '●',
        Verdict::Degraded(_) => '◐',
        Verdict::Down(_) => '✗',
        Verdict::Unknown(_) => '?',
    }
}

/// stdout, buffered. Colours are taken out where they should not be.
#[derive(Debug)]
pub struct Output {
    inner: BufWriter<AutoStream<StdoutLock<'static>>>,
}

impl Output {
    /// For people: styled where the terminal, `--color` and `NO_COLOR` agree.
    pub fn styled() -> Self {
        let stdout = io::stdout();
        let choice = AutoStream::choice(&stdout);
        Self { inner: BufWriter::with_capacity(1 << 16, AutoStream::new(stdout.lock(), choice)) }
    }

    /// For programs: bytes as they are.
    pub fn data() -> Self {
        Self { inner: BufWriter::with_capacity(1 << 16, AutoStream::always_ansi(io::stdout().lock())) }
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.inner.write_all(bytes).map_err(|error| Failure::of_stdout(&error))
    }

    /// Appends a line.
    pub fn line(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.inner, "{line}").map_err(|error| Failure::of_stdout(&error))
    }

    /// Appends a JSON value and the end of its line.
    pub fn json(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        // By its `Display` each of its marks would be a write of its own.
        serde_json::to_writer(&mut self.inner, value).map_err(|error| Failure::of_stdout(&error.into()))?;
        self.bytes(b"\n")
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(|error| Failure::of_stdout(&error))
    }
}

/// Whether stdout is styled.
pub fn stdout_is_styled() -> bool {
    !matches!(AutoStream::choice(&io::stdout()), ColorChoice::Never)
}

/// Whether somebody looks at stdout.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether somebody looks at stderr.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Says a line on stderr. That nobody can read it any more is no failure.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Says on stderr that something takes its time, for as long as it does; nothing where nobody looks, or with
/// `quiet`. The message may change meanwhile.
pub fn busy(quiet: bool, message: &'static str) -> ProgressBar {
    if quiet || !stderr_is_terminal() {
        return ProgressBar::hidden();
    }
    // Dropped on the way out of a failure, it clears its line too.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4))
        .with_message(message)
        .with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Columns and rows of the terminal: `COLUMNS` and `LINES` first, then the terminal itself, if stdout is one.
pub fn size() -> Option<(usize, usize)> {
    let given = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok()).filter(|size| *size > 0);
    let window = stdout_is_terminal()
        .then(|| rustix::termios::tcgetwinsize(io::stdout()).ok())
        .flatten()
        .filter(|window| window.ws_col > 0)
        .map(|window| (usize::from(window.ws_col), usize::from(window.ws_row).max(1)));
    let columns = given("COLUMNS").or(window.map(|(columns, _)| columns))?;
    Some((columns, given("LINES").or(window.map(|(_, rows)| rows)).unwrap_or(24)))
}

/// The width of a picture: that of the terminal, or 80; readable from 40 on, and not wider than 160.
pub fn picture_width() -> usize {
    size().map_or(80, |(columns, _)| columns).clamp(40, 160)
}

/// How many columns of a terminal a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// A text cut to so many columns, with an ellipsis where something is missing.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut shown = String::new();
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        shown.push(c);
    }
    if columns > 0 {
        shown.push('…');
    }
    shown
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with a style. What a terminal would obey is taken out of the text.
    pub fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: show::plain(text.as_ref()).into_owned(), style }
    }

    /// A cell without style.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self::styled(text, PLAIN)
    }
}

/// On which side a column is flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// Columns that the last one of a table is to have at least, before others are left out for it.
const LAST_COLUMN: usize = 12;

/// A table: columns two spaces apart, as wide as their widest cell, the last one cut at the terminal's border.
#[derive(Debug)]
pub struct Table {
    heads: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
    spare: &'static [&'static str],
}

impl Table {
    /// A table with these columns.
    pub const fn new(heads: Vec<(&'static str, Align)>) -> Self {
        Self { heads, rows: Vec::new(), spare: &[] }
    }

    /// The heads of columns that a narrow terminal does without, the first of them first.
    pub const fn spare(&mut self, heads: &'static [&'static str]) {
        self.spare = heads;
    }

    /// Adds a row; it has a cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// How many rows there are.
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// The lines of the table, the heads first; of at most `columns` columns of the terminal, if given.
    pub fn lines(&self, columns: Option<usize>) -> Vec<String> {
        let mut widths: Vec<usize> = self.heads.iter().map(|(head, _)| head.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let last = widths.len().saturating_sub(1);
        if let Some(columns) = columns {
            let before = |widths: &[usize]| -> usize {
                widths[..last].iter().filter(|width| **width > 0).map(|width| width + 2).sum()
            };
            let wanted = widths[last].min(LAST_COLUMN);
            for spare in self.spare {
                if before(&widths) + wanted > columns
                    && let Some(index) = self.heads[..last].iter().position(|(head, _)| head == spare)
                {
                    // A column without a width is left out.
                    widths[index] = 0;
                }
            }
            let before = before(&widths);
            widths[last] = widths[last].min(columns.saturating_sub(before).max(8));
        }
        let heads: Vec<Cell> = self.heads.iter().map(|(head, _)| Cell::styled(*head, FAINT)).collect();
        std::iter::once(&heads).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        let last = row.len().saturating_sub(1);
        for (index, ((cell, width), (_, align))) in row.iter().zip(widths).zip(&self.heads).enumerate() {
            if *width == 0 {
                continue;
            }
            let text = cut(&cell.text, *width);
            let fill = width.saturating_sub(text.width());
            if *align == Align::Right {
                line.extend(std::iter::repeat_n(' ', fill));
            }
            paint(&mut line, &text, cell.style);
            if index < last {
                line.extend(std::iter::repeat_n(' ', if *align == Align::Left { fill + 2 } else { 2 }));
            }
        }
        line.truncate(line.trim_end_matches(' ').len());
        line
    }
}

/// Appends a text in a style; plain text stays without codes.
pub fn paint(line: &mut String, text: &str, style: Style) {
    use std::fmt::Write as _;
    let _ =
        if style == PLAIN || text.is_empty() { line.write_str(text) } else { write!(line, "{style}{text}{style:#}") };
}

/// A text in a style.
pub fn painted(text: &str, style: Style) -> String {
    let mut line = String::new();
    paint(&mut line, text, style);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_cells_and_the_terminal() {
        let mut table = Table::new(vec![("SITE", Align::Left), ("P95", Align::Right), ("CAUSE", Align::Left)]);
        table.row(vec![Cell::new("shop"), Cell::new("81 ms"), Cell::new("")]);
        table.row(vec![Cell::new("漢字"), Cell::new("1 s"), Cell::new("http.status status 503, expected 200-299")]);
        expect_test::expect![[r"
            SITE    P95  CAUSE
            shop  81 ms
            漢字    1 s  http.status st…
        "]]
        .assert_eq(&(anstream::adapter::strip_str(&table.lines(Some(28)).join("\n")).to_string() + "\n"));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_narrow_terminal_does_without_spare_columns() {
        let head = |name| (name, Align::Left);
        let mut table = Table::new(vec![head("SITE"), head("P50"), head("P95"), head("CAUSE")]);
        table.spare(&["P95", "P50"]);
        table.row(["shop", "1.25 ms", "2.50 ms", "http.status status 503"].map(Cell::new).to_vec());
        let lines = |columns| anstream::adapter::strip_str(&table.lines(Some(columns)).join("\n")).to_string();
        assert_eq!(lines(60), "SITE  P50      P95      CAUSE\nshop  1.25 ms  2.50 ms  http.status status 503");
        assert_eq!(lines(30), "SITE  P50      CAUSE\nshop  1.25 ms  http.status st…");
        assert_eq!(lines(20), "SITE  CAUSE\nshop  http.status s…");
    }

    #[test]
    fn cutting_counts_columns() {
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 0), "");
    }
}
