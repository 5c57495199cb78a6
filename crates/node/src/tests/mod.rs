//! Tests of the operations on a machine in memory: killed between any two of their effects, with foreign data
//! on the device, with records that they did not write, rejected, and deactivated.

mod deactivated;
mod foreign;
mod killed;
mod machine;
mod pool;
mod recorded;
mod rejected;
mod world;
