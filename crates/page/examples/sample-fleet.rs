//! Serves the page of a sample fleet on a free port, and prints its address:
//!
//!     cargo run --package quarry-page --example sample-fleet -- 5000

#[path = "../tests/sample/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod sample;

use std::io::Write as _;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = std::env::args().nth(1).map_or(Ok(24), |nodes| nodes.parse())?;
    let view = sample::view(nodes).await;
    let listener = quarry_page::bind("127.0.0.1:0".parse()?).await?;
    let mut output = std::io::stdout();
    writeln!(output, "http://{}", listener.local_addr()?)?;
    output.flush()?;
    quarry_page::serve(listener, Arc::new(view), CancellationToken::new()).await?;
    Ok(())
}
