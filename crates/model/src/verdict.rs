//! The verdict on a site at one slot.

use crate::Cause;

/// What a check came to. The causes are all that applied, the gravest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Verdict {
    /// Everything that was expected held.
    #[default]
    Up,
    /// It answers, but slower, or with a certificate nearer to its end, than was asked for. Counts as up.
    Degraded(Vec<Cause>),
    /// It does not do what was expected of it.
    Down(Vec<Cause>),
    /// We could not tell: the check was not made, or failed for a reason of our own.
    Unknown(Vec<Cause>),
}

impl Verdict {
    /// As in the exported line: `up`, `degraded`, `down`, `unknown`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded(_) => "degraded",
            Self::Down(_) => "down",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The causes, the gravest first; empty when up.
    pub fn causes(&self) -> &[Cause] {
        match self {
            Self::Up => &[],
            Self::Degraded(causes) | Self::Down(causes) | Self::Unknown(causes) => causes,
        }
    }

    /// The stable number under which verdicts are stored: 0 up, 1 degraded, 2 down, 3 unknown.
    pub const fn number(&self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Degraded(_) => 1,
            Self::Down(_) => 2,
            Self::Unknown(_) => 3,
        }
    }

    /// The verdict of a stored number with its causes; `None` for a number that no verdict has.
    pub fn from_number(number: u8, causes: Vec<Cause>) -> Option<Self> {
        match number {
            0 => Some(Self::Up),
            1 => Some(Self::Degraded(causes)),
            2 => Some(Self::Down(causes)),
            3 => Some(Self::Unknown(causes)),
            _ => None,
        }
    }

    /// Whether the site counts as available: up and degraded do. `None` where it is unknown.
    pub const fn available(&self) -> Option<bool> {
        match self {
            Self::Up | Self::Degraded(_) => Some(true),
            Self::Down(_) => Some(false),
            Self::Unknown(_) => None,
        }
    }

    /// For the gravest of several: down before unknown before degraded before up.
    pub const fn gravity(&self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Degraded(_) => 1,
            Self::Unknown(_) => 2,
            Self::Down(_) => 3,
        }
    }

    /// A number that is the same where verdict and set of codes are the same; never 0 but for `Up`. The
    /// checker keeps it for each site to know when evidence is due.
    pub fn fingerprint(&self) -> u64 {
        let mut codes: Vec<u16> = self.causes().iter().map(|cause| cause.code.number()).collect();
        codes.sort_unstable();
        codes.dedup();
        let seed = u64::from(self.number());
        codes
            .iter()
            .fold(seed, |hash, code| (hash ^ u64::from(*code)).wrapping_mul(0x0100_0000_01b3).wrapping_add(seed))
    }
}
