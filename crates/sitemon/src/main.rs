//! Watches web sites. Everything is in the library, so that tests reach it.

/// Checks allocate and free small buffers on many threads, which this allocator does with less contention and
/// less memory held than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sitemon::cli::main()
}
