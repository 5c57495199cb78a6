//! Tests of the operations on a machine in memory: killed between any two of their effects, with foreign data
//! on the device, with records that they did not write, rejected, deactivated, and with volumes that grow.

mod deactivated;
mod foreign;
mod grown;
mod killed;
mod machine;
mod pool;
mod recorded;
mod rejected;
mod world;
