//! The lcore over memory ports: what it moves, counts and keeps, turn by turn and on its own thread.

mod allocation;
mod conservation;
mod flood;
mod thread;
mod trace;
mod turns;
mod world;
