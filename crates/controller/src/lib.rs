//! CSI Controller and Identity.
//!
//! Nothing here knows how a volume is carved: the [`ControllerService`] checks requests and asks the
//! [`quarry_volume::Agent`] of the node.

mod identity;
mod paging;
mod service;

pub use identity::{IdentityService, Readiness};
pub use service::ControllerService;
