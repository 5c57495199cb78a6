//! Tests of the operations on a machine in memory: killed between any two of their effects, with foreign data
//! on the device, refused, and deactivated.

mod deactivated;
mod foreign;
mod killed;
mod machine;
mod pool;
mod refused;
mod world;
