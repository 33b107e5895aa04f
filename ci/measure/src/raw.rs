//! What the network alone costs: takes in as many bytes as an iSCSI command has, sends as many as its answer has.
//!
//! It reads only what it needs to know how long each side is: no login, no sequence numbers, no medium. Many requests are
//! taken by one read, their answers go out in one write. The answers are PDUs, so that the client is the same.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::Result;

use crate::load::{HEADER, command_bytes, put_u24, u24};

/// Slices of one send.
const SLICES: usize = 64;

/// Listens on a port of its own, and tells it.
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("READY {}", listener.local_addr()?);
    for stream in listener.incoming() {
        // One client at a time: its end is a connection reset or an end of file, and no error.
        let _ = answer(stream?);
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = vec![0_u8; 1 << 20];
    let zeroes = vec![0_u8; 1 << 20];
    let mut answers = Vec::with_capacity(1024);
    let (mut header, mut have, mut to_skip) = ([0_u8; HEADER], 0, 0);
    loop {
        let n = stream.read(&mut input)?;
        if n == 0 {
            return Ok(());
        }
        let mut rest = &input[..n];
        while !rest.is_empty() {
            let skip = rest.len().min(to_skip);
            to_skip -= skip;
            rest = &rest[skip..];
            let take = rest.len().min(HEADER - have);
            header[have..have + take].copy_from_slice(&rest[..take]);
            have += take;
            rest = &rest[take..];
            if have == HEADER {
                to_skip = u24(&header, 5);
                have = 0;
                answers.push(answer_to(&header));
            }
        }
        // The data of a write arrives before its answer leaves.
        if to_skip == 0 {
            for batch in answers.chunks(SLICES / 2) {
                send(&mut stream, batch, &zeroes)?;
            }
            answers.clear();
        }
    }
}

fn send(stream: &mut TcpStream, answers: &[([u8; HEADER], usize)], zeroes: &[u8]) -> std::io::Result<()> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    for ((header, data_len), pair) in answers.iter().zip(slices.chunks_mut(2)) {
        pair[0] = IoSlice::new(header);
        pair[1] = IoSlice::new(&zeroes[..*data_len]);
    }
    let mut left = &mut slices[..answers.len() * 2];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let n = stream.write_vectored(left)?;
        IoSlice::advance_slices(&mut left, n);
    }
    Ok(())
}

/// A SCSI response, or one Data-In PDU with the status in it; and how much data follows.
fn answer_to(command: &[u8; HEADER]) -> ([u8; HEADER], usize) {
    let data_len = if command[1] & 0x40 == 0 { 0 } else { command_bytes(command) };
    let mut header = [0_u8; HEADER];
    (header[0], header[1]) = if data_len == 0 { (0x21, 0x80) } else { (0x25, 0x81) };
    put_u24(&mut header, 5, data_len);
    header[16..20].copy_from_slice(&command[16..20]);
    (header, data_len)
}
