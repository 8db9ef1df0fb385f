//! Pictures out of characters: the phases of a hop, response times over time, the strip of verdicts.

use super::show;
use super::terminal::{self, BAD, FAINT, paint, painted};
use clap::builder::styling::{AnsiColor, Style};
use sitemon_model::{Phases, State, Timestamp};

/// The character and the colour of each phase, in the order of [`Phase::ALL`]; neighbours differ without
/// colours too.
const PHASES: [(char, Style); 7] = [
    ('░', AnsiColor::Cyan.on_default()),
    ('▒', AnsiColor::Blue.on_default()),
    ('▞', AnsiColor::White.on_default()),
    ('▓', AnsiColor::Magenta.on_default()),
    ('▪', AnsiColor::BrightBlue.on_default()),
    ('█', AnsiColor::Yellow.on_default()),
    ('▄', AnsiColor::Green.on_default()),
];

/// A bar of `width` characters that stand for `total_us`, on which the phases of a hop lie to scale, from
/// `before_us` on. Each phase that was reached has a character at least, one that failed ends with `✗`.
pub fn phases(phases: &Phases, before_us: u64, total_us: u64, width: usize) -> String {
    let reached: Vec<_> = phases.reached().collect();
    if reached.is_empty() || width == 0 {
        return String::new();
    }
    let total = total_us.max(1) as f64;
    let column = |us: u64| (us as f64 / total * width as f64).round() as usize;
    // Room is kept for a character for each phase that is still to come.
    let mut at = column(before_us).min(width.saturating_sub(reached.len()));
    let mut bar = " ".repeat(at);
    let mut passed = before_us;
    for (index, (phase, time)) in reached.iter().enumerate() {
        passed += time.us;
        let to_come = reached.len() - index - 1;
        let end = column(passed).min(width.saturating_sub(to_come)).max(at + 1);
        let (sign, style) = PHASES[*phase as usize];
        let mut part: String = std::iter::repeat_n(sign, end - at).collect();
        if time.state == State::Failed {
            part.pop();
            paint(&mut bar, &part, style);
            paint(&mut bar, "✗", BAD);
        } else {
            paint(&mut bar, &part, style);
        }
        at = end;
    }
    bar
}

/// The phases of a hop with their signs and times.
pub fn legend(phases: &Phases, reused: bool) -> String {
    let mut parts: Vec<String> = Vec::new();
    if reused {
        parts.push("reused connection".to_owned());
    }
    for (phase, time) in phases.reached() {
        let (sign, style) = PHASES[phase as usize];
        let mut part = painted(&sign.to_string(), style);
        let text = format!(" {} {}", phase.as_str(), show::took(time.us));
        match time.state {
            State::Done => part.push_str(&text),
            State::Failed => part.push_str(&painted(&format!("{text} failed"), BAD)),
        }
        parts.push(part);
    }
    parts.join("  ")
}

/// What lies in one column of a picture over time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Column {
    /// The smallest and the largest response time in microseconds.
    pub range: Option<(u64, u64)>,
    /// The sum of the response times, and how many there are.
    pub sum: (u64, u64),
    /// The gravest verdict, by `Verdict::number`.
    pub verdict: Option<u8>,
    /// Whether all this only reaches into it from an observation before, and gives way to the first in it.
    pub carried: bool,
}

impl Column {
    /// Adds an observation. Of verdicts the gravest stays: down before unknown before degraded before up.
    pub fn add(&mut self, response_time_us: Option<u64>, verdict: u8) {
        if self.carried {
            *self = Self::default();
        }
        if let Some(us) = response_time_us {
            let (low, high) = self.range.unwrap_or((us, us));
            self.range = Some((low.min(us), high.max(us)));
            self.sum = (self.sum.0.saturating_add(us), self.sum.1 + 1);
        }
        let graver = |old: u8| gravity(verdict) > gravity(old);
        if self.verdict.is_none_or(graver) {
            self.verdict = Some(verdict);
        }
    }

    /// What was found before and still holds; goes behind whatever is found in the column itself.
    pub fn carry(&mut self, response_time_us: Option<u64>, verdict: u8) {
        if self.verdict.is_none() || self.carried {
            *self = Self::default();
            self.add(response_time_us, verdict);
            self.carried = true;
        }
    }
}

/// By `Verdict::number`: what `Verdict::gravity` says.
pub const fn gravity(verdict: u8) -> u8 {
    match verdict {
        2 => 3,
        3 => 2,
        other => other,
    }
}

/// The width of the scale to the left of a plot.
const SCALE: usize = 10;

/// How many columns a plot has in a picture of this width.
pub const fn plot_columns(width: usize) -> usize {
    let columns = width.saturating_sub(SCALE + 2);
    if columns == 0 { 1 } else { columns }
}

/// Response times over time: in each column the range between the smallest and the largest, the mean brighter;
/// below them the strip of verdicts and the time.
pub fn plot(columns: &[Column], rows: usize, from: Timestamp, to: Timestamp) -> Vec<String> {
    let top = columns.iter().filter_map(|column| column.range).map(|(_, high)| high).max();
    let mut lines = Vec::new();
    if let Some(top) = top.map(nice) {
        for row in (0..rows).rev() {
            let label = if row + 1 == rows {
                show::took(top)
            } else if row == 0 {
                "0".to_owned()
            } else if row == rows / 2 {
                show::took(top * rows.div_euclid(2) as u64 / rows as u64)
            } else {
                String::new()
            };
            let mut line = format!("{}{label} ", " ".repeat(SCALE.saturating_sub(terminal::width(&label))));
            line.push_str(&painted("│", FAINT));
            for column in columns {
                dot(&mut line, column, row, rows, top);
            }
            lines.push(line.trim_end().to_owned());
        }
    }
    lines.push(format!("{}{}", " ".repeat(SCALE + 2), strip(columns)));
    lines.push(axis(columns.len(), from, to));
    lines
}

/// One character of a plot: a block as high as the values reach into its row.
fn dot(line: &mut String, column: &Column, row: usize, rows: usize, top: u64) {
    const EIGHTHS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let (Some((_, high)), (sum, count)) = (column.range, column.sum) else {
        line.push(' ');
        return;
    };
    let eighths = |us: u64| (us as f64 / top as f64 * rows as f64 * 8.0).ceil() as usize;
    let filled = |us: u64| eighths(us).saturating_sub(row * 8).min(8);
    let mean = sum / count.max(1);
    let style = terminal::verdict_style(column.verdict.unwrap_or(0));
    match (filled(mean), filled(high)) {
        (0, 0) => line.push(' '),
        (0, _) => paint(line, "·", style),
        (eighths, _) => paint(line, EIGHTHS[eighths], style),
    }
}

/// The verdicts, a character for each column: `━` up, `╍` degraded, `✗` down, `?` unknown, blank where nothing is
/// known.
pub fn strip(columns: &[Column]) -> String {
    let mut line = String::new();
    for same in columns.chunk_by(|a, b| a.verdict == b.verdict) {
        match same[0].verdict {
            None => line.extend(std::iter::repeat_n(' ', same.len())),
            Some(verdict) => {
                let sign = match verdict {
                    0 => "━",
                    1 => "╍",
                    2 => "✗",
                    _ => "?",
                };
                paint(&mut line, &sign.repeat(same.len()), terminal::verdict_style(verdict));
            }
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// The times under a plot: its start, its middle where there is room, its end.
fn axis(columns: usize, from: Timestamp, to: Timestamp) -> String {
    let width = to.since(from);
    let texts = [from, from.plus(width / 2), to].map(|at| show::axis_time(at, width));
    let mut line = " ".repeat(SCALE + 2);
    line.push_str(&texts[0]);
    let middle = SCALE + 2 + (columns / 2).saturating_sub(texts[1].len() / 2);
    if middle > line.len() + 2 && columns > texts.iter().map(|text| text.len() + 3).sum() {
        line.push_str(&" ".repeat(middle - line.len()));
        line.push_str(&texts[1]);
    }
    let end = (SCALE + 2 + columns).saturating_sub(texts[2].len()).max(line.len() + 2);
    line.push_str(&" ".repeat(end - line.len()));
    line.push_str(&texts[2]);
    painted(&line, FAINT)
}

/// The next number from `us` on that reads well as the end of a scale: 1, 2, 2.5 or 5 times a power of ten.
fn nice(us: u64) -> u64 {
    let mut power = 10_u64;
    while power.saturating_mul(10) <= us {
        power = power.saturating_mul(10);
    }
    [10, 20, 25, 50, 100].iter().map(|tenths| power / 10 * tenths).find(|end| *end >= us).unwrap_or(us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitemon_model::Phase;
    use sitemon_model::time::HOUR;

    fn bare(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn phases_are_drawn_to_scale() {
        let mut times = Phases::default();
        times.set(Phase::Dns, 1, State::Done);
        times.set(Phase::Connect, 25_000, State::Done);
        times.set(Phase::Send, 0, State::Done);
        times.set(Phase::Wait, 75_000, State::Failed);
        assert_eq!(bare(&phases(&times, 0, 100_001, 20)), "░▒▒▒▒▪█████████████✗");
        assert_eq!(bare(&phases(&times, 100_001, 200_002, 20)), "          ░▒▒▪█████✗");
        assert_eq!(bare(&phases(&times, 0, 100_001, 4)), "░▒▪✗");
        assert_eq!(phases(&Phases::default(), 0, 1, 20), "");
        assert_eq!(
            bare(&legend(&times, true)),
            "reused connection  ░ dns 1 µs  ▒ connect 25.0 ms  ▪ send 0 µs  █ wait 75.0 ms failed"
        );
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (us, end) in [(0, 10), (10, 10), (11, 20), (81_234, 100_000), (2_100_000, 2_500_000), (26_000, 50_000)] {
            assert_eq!(nice(us), end);
        }
    }

    #[test]
    fn a_plot() {
        let mut columns = vec![Column::default(); 40];
        for (index, column) in columns.iter_mut().enumerate() {
            match index {
                0..10 => column.add(Some(20_000), 0),
                10..20 => {
                    column.add(Some(20_000), 0);
                    column.add(Some(90_000), 1);
                }
                20..25 => column.add(None, 2),
                25..30 => {}
                30..32 => column.add(None, 3),
                _ => column.add(Some(45_000), 0),
            }
        }
        // The bar at the left keeps the margin, which the macro would take for its own indentation.
        let lines = plot(&columns, 5, Timestamp(0), Timestamp(HOUR));
        let lines: Vec<String> = lines.iter().map(|line| format!("|{}", bare(line))).collect();
        expect_test::expect![[r#"
            |    100 ms │          ··········
            |           │          ··········
            |   40.0 ms │          ▆▆▆▆▆▆▆▆▆▆            ▂▂▂▂▂▂▂▂
            |           │          ██████████            ████████
            |         0 │████████████████████            ████████
            |            ━━━━━━━━━━╍╍╍╍╍╍╍╍╍╍✗✗✗✗✗     ??━━━━━━━━
            |            00:00:00        00:30:00        01:00:00
        "#]]
        .assert_eq(&(lines.join("\n") + "\n"));
    }
}
