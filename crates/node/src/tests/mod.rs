//! Tests of the operations on a machine in memory: killed between any two of their effects, with foreign data
//! on the device, with records that they did not write, with failed filesystems, rejected, deactivated, of encrypted volumes, with volumes that
//! grow, with volumes that are filled from others, with trims of their filesystems, with I/O limits and metrics, and with
//! other changes while they are used.

mod deactivated;
mod encrypted;
mod failed;
mod filled;
mod foreign;
mod grown;
mod killed;
mod limited;
mod machine;
mod measured;
mod modified;
mod pool;
mod recorded;
mod rejected;
mod trimmed;
mod world;
