//! Measures a CSI driver: the times of its calls, and beside it those of the bare commands of an operator.
//!
//! [`run()`] speaks CSI to any driver's socket. It creates volumes, uses them phase by phase ([`Phase`]), and
//! removes them. It never touches a volume that it did not create. With a floor ([`LvmFloor`]), rounds of the
//! driver and rounds of bare commands alternate in the same run, so that [`ratios`] compare what was measured
//! under the same conditions. [`report`] and [`plot`] show the [`Results`].

mod directory;
mod driver;
mod floor;
mod phase;
mod plan;
pub mod plot;
pub mod report;
mod run;
mod statistics;
mod system;

pub use driver::Identity;
pub use phase::{Abilities, LeftOut, OPTIONAL, Phase, steps};
pub use plan::{LvmFloor, Plan, Stop};
pub use run::{Results, Step, run};
pub use statistics::{Errors, Latency, Ratio, Sample, Series, Sum, What, ratios};
pub use system::{Failure, Kind, Retries};
