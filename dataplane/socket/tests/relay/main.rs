//! The socket tier over loopback: real clients, real servers, a real generation.

mod change;
mod tcp;
mod udp;
mod world;
