//! A read-only page in HTML of what a controller knows: the findings of `quarry doctor`, the nodes by how full they are,
//! the pools of a node, and the volumes.
//!
//! [`serve`] answers on a loopback address, over HTTP. Everything comes from the operator's view
//! ([`View`]), in the memory of the same process: no request reaches a node.
//! [`render`] turns plain data into HTML, without I/O. A page is complete in itself: one inline stylesheet, inline SVG, no
//! script and no request for anything else.
//!
//! [`View`]: quarry_proto::view::v2::view_server::View

mod http;
mod render;
mod source;
mod url;

pub use self::http::{BindError, LoopbackAddress, NotLoopback, bind, serve};
