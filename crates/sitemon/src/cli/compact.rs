//! `sitemon compact`: packs everything that is stored, and gives freed space back.

use super::args::Global;
use super::terminal::{self, say};
use super::{Exit, Outcome, on_this_thread, show};
use crate::clock::wall;
use crate::config::{self, Source};
use sitemon_store::{Access, Upkeep};

/// Compacts the store; one that is not there yet needs nothing.
pub fn run(source: &Source, global: &Global) -> Outcome {
    on_this_thread(async {
        let config = config::load(source)?;
        if !config.store.exists().await? {
            if global.quiet == 0 {
                say("there is no store yet: nothing to compact");
            }
            return Ok(Exit::Done);
        }
        let store = config.store.open(Access::Write("compact")).await?;
        let busy = terminal::busy(global.quiet > 0, "packing");
        let packed = store.maintain(Upkeep::Pack { now: wall(), everything: true }).await;
        let freed = match packed {
            Ok(_) => store.maintain(Upkeep::Reclaim).await,
            Err(_) => Ok(sitemon_store::Upkept::default()),
        };
        let bytes = store.measure().await.map_or(0, |measures| measures.bytes);
        store.close().await;
        busy.finish_and_clear();
        let (packed, freed) = (packed?, freed?);
        if global.quiet == 0 {
            say(format_args!(
                "packed {} into {}, gave back {}; the store has {}",
                show::counted(packed.arrivals, "observation"),
                show::counted(packed.blocks, "block"),
                show::bytes(freed.freed_bytes),
                show::bytes(bytes),
            ));
        }
        Ok(Exit::Done)
    })
}
