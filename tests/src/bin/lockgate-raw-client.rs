//! A client that speaks whatever bytes it is told: `lockgate-raw-client ADDRESS HEX [--never-read MILLISECONDS]`.
//!
//! It sends them, closes its sending side, prints what comes back in hexadecimal, and ends with the connection
//! (or after 20 s, with an error). With `--never-read` it keeps both sides open and reads nothing.

use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, bytes, never_read) = match arguments.as_slice() {
        [address, bytes] => (address, bytes, None),
        [address, bytes, flag, millis] if flag == "--never-read" => (address, bytes, Some(millis.parse()?)),
        _ => bail!("usage: lockgate-raw-client ADDRESS HEX [--never-read MILLISECONDS]"),
    };
    let mut stream = TcpStream::connect(address.parse::<SocketAddr>()?).context("connect")?;
    stream.write_all(&hex::decode(bytes)?)?;
    if let Some(millis) = never_read {
        std::thread::sleep(Duration::from_millis(millis));
        return Ok(());
    }
    // The peer may have closed already; what it said before is still to be read.
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error).context("the peer neither answered nor closed"),
    }
    println!("{}", hex::encode(answer));
    Ok(())
}
