//! A client that costs next to nothing, so that what stands before it is measured: it logs in without a password, asks in
//! the simple protocol and throws the answer away by message headers.
//!
//! Not a driver: it knows the few messages it needs and gives up on anything else.

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use std::{
    io::{BufRead, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Instant,
};

#[derive(Parser)]
struct Arguments {
    /// The server's port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// The role
    #[arg(long, default_value = "app")]
    user: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one statement, count its answer, print `{"bytes":…,"rows":…,"micros":…}`
    Drain {
        /// The statement
        statement: String,
    },
    /// Open sessions, run one statement in each, print `ready`, wait for a line; again with more; keep all of them idle
    Idle {
        /// The statement
        statement: String,
        /// Sessions of each step
        #[arg(long, value_delimiter = ',')]
        steps: Vec<usize>,
    },
}

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

fn main() -> Result<()> {
    let Arguments { port, user, verb } = Arguments::parse();
    match verb {
        Verb::Drain { statement } => {
            let mut session = Session::open(port, &user)?;
            let begin = Instant::now();
            let answer = session.ask(&statement)?;
            let micros = begin.elapsed().as_micros();
            println!("{{\"bytes\":{},\"rows\":{},\"micros\":{micros}}}", answer.bytes, answer.rows);
        }
        Verb::Idle { statement, steps } => {
            let mut sessions = Vec::new();
            for step in steps {
                for _ in 0..step {
                    let mut session = Session::open(port, &user)?;
                    session.ask(&statement)?;
                    // What it read into is not what is measured.
                    session.chunk = Vec::new();
                    sessions.push(session);
                }
                println!("ready");
                ensure!(std::io::stdin().lock().read_line(&mut String::new())? > 0, "nobody waits any more");
            }
        }
    }
    Ok(())
}

/// What came back.
#[derive(Default)]
struct Answer {
    /// Bytes of DataRow and CopyData messages.
    bytes: u64,
    rows: u64,
}

struct Session {
    stream: TcpStream,
    chunk: Vec<u8>,
}

impl Session {
    fn open(port: u16, user: &str) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, chunk: Vec::new() };
        // StartupMessage, protocol 3.0.
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for text in ["user", user, "database", "postgres", ""] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        let length = u32::try_from(body.len() + 4)?;
        session.stream.write_all(&[&length.to_be_bytes()[..], &body].concat())?;
        session.until_ready()?;
        Ok(session)
    }

    fn ask(&mut self, statement: &str) -> Result<Answer> {
        let length = u32::try_from(statement.len() + 5)?;
        let query = [b"Q", &length.to_be_bytes()[..], statement.as_bytes(), b"\0"].concat();
        self.stream.write_all(&query)?;
        self.until_ready()
    }

    /// Reads to ReadyForQuery, after which the server says nothing.
    fn until_ready(&mut self) -> Result<Answer> {
        self.chunk.resize(READ_BYTES, 0);
        let mut answer = Answer::default();
        // Kept between reads: a message header that is cut, and how much of a body is still to come.
        let (mut kept, mut skip) = (0, 0);
        loop {
            let room = self.chunk.get_mut(kept..).context("room")?;
            let got = self.stream.read(room)?;
            ensure!(got > 0, "the connection ended");
            let end = kept + got;
            let mut at = skip.min(end);
            skip -= at;
            kept = 0;
            while let Some(&[kind, a, b, c, d]) = self.chunk.get(at..(at + 5).min(end)) {
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))? + 1;
                let next = at + length;
                match kind {
                    b'D' | b'd' => {
                        answer.rows += 1;
                        answer.bytes += length as u64;
                    }
                    b'Z' => {
                        ensure!(next == end, "expected nothing behind ReadyForQuery");
                        return Ok(answer);
                    }
                    b'E' => {
                        let rest = self.chunk.get(at + 5..next.min(end)).unwrap_or_default();
                        bail!("the server says: {}", String::from_utf8_lossy(rest).replace('\0', " "));
                    }
                    _ => {}
                }
                at = next;
                if at >= end {
                    break;
                }
            }
            if at > end {
                skip = at - end;
            } else if at < end {
                self.chunk.copy_within(at..end, 0);
                kept = end - at;
            }
        }
    }
}
