//! The limit: a relay that accepts, dials and copies bytes both ways, and does nothing else. `cargo xtask bench --peers`
//! runs it beside lockgate.
//!
//! The quickest simple form on this kind of machine: one thread, like the other two proxies it stands beside.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
};

/// Bytes in flight each way: large enough for bulk results.
const BUFFER_BYTES: usize = 64 << 10;

/// `lockgate-relay LISTEN_PORT SERVER_PORT [THREADS]`
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &str| -> Result<u16> {
        arguments
            .next()
            .with_context(|| format!("{what} is missing"))?
            .parse()
            .with_context(|| what.to_owned())
    };
    let (listen, server) = (number("the port to listen on")?, number("the server's port")?);
    let runtime = match number("threads") {
        Ok(threads) if threads > 1 => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads.into()).enable_io().build()?
        }
        _ => tokio::runtime::Builder::new_current_thread().enable_io().build()?,
    };
    runtime.block_on(serve(listen, server))
}

async fn serve(listen: u16, server: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, listen)).await?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = relay(client, server).await {
                eprintln!("lockgate-relay: {error}");
            }
        });
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await.map(drop)
}
