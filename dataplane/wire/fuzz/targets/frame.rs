//! Fuzzes every decoder and every in-place answer with one frame. On a stable compiler (the target keeps the flags
//! away from build scripts), in `dataplane/wire`:
//!
//! ```text
//! cd fuzz
//! RUSTFLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Cllvm-args=-sanitizer-coverage-trace-compares' \
//! cargo run --release --target x86_64-unknown-linux-gnu --bin frame -- corpus/frame -max_len=2048
//! ```
//!
//! What it finds belongs into `corpus/frame`: `tests/corpus.rs` replays that in every ordinary test run.
#![no_main]

#[path = "../src/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::frame(bytes));
