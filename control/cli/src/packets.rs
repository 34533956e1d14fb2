//! Packets out of a capture file (pcap or pcapng).

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

use crate::exit::{Code, Failure};

/// The frames of a capture file, at most `limit`, in order. No more of it is read than that takes.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<Vec<u8>>, Failure> {
    let refuse = |why: String| Failure::new(Code::Invalid, format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    frames(BufReader::new(file), limit).map_err(refuse)
}

fn frames(mut file: impl BufRead, limit: usize) -> Result<Vec<Vec<u8>>, String> {
    let start = file.fill_buf().map_err(|error| error.to_string())?;
    // The first block of a pcapng file has this type.
    let is_next_generation = start.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]);
    if is_next_generation {
        next_generation(file, limit)
    } else {
        classic(file, limit)
    }
}

fn classic(file: impl Read, limit: usize) -> Result<Vec<Vec<u8>>, String> {
    let mut reader = PcapReader::new(file).map_err(|error| unreadable(&error))?;
    only_ethernet(reader.header().datalink)?;
    let mut frames = Vec::new();
    while let (true, Some(packet)) = (frames.len() < limit, reader.next_packet()) {
        let packet = packet.map_err(|error| unreadable(&error))?;
        frames.push(packet.data.into_owned());
    }
    Ok(frames)
}

fn next_generation(file: impl Read, limit: usize) -> Result<Vec<Vec<u8>>, String> {
    let mut reader = PcapNgReader::new(file).map_err(|error| unreadable(&error))?;
    let mut frames = Vec::new();
    while let (true, Some(block)) = (frames.len() < limit, reader.next_block()) {
        match block.map_err(|error| unreadable(&error))? {
            Block::InterfaceDescription(interface) => only_ethernet(interface.linktype)?,
            Block::EnhancedPacket(packet) => frames.push(packet.data.into_owned()),
            Block::SimplePacket(packet) => frames.push(packet.data.into_owned()),
            _ => {}
        }
    }
    Ok(frames)
}

fn only_ethernet(link: DataLink) -> Result<(), String> {
    if link == DataLink::ETHERNET {
        Ok(())
    } else {
        Err(format!(
            "captured on a link of type {link:?}; only Ethernet frames can be explained"
        ))
    }
}

fn unreadable(error: &PcapError) -> String {
    format!("not a capture file that can be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::{PcapPacket, PcapWriter};
    use std::time::Duration;

    #[test]
    fn frames_come_back_in_order_and_no_more_than_asked() {
        let mut writer = PcapWriter::new(Vec::new()).expect("a header");
        for number in 0..5_u8 {
            let frame = [number; 14];
            let packet = PcapPacket::new(Duration::from_secs(1), 14, &frame);
            writer.write_packet(&packet).expect("written");
        }
        let file = writer.into_writer();
        let read = frames(&file[..], 3).expect("frames");
        assert_eq!(read, [vec![0; 14], vec![1; 14], vec![2; 14]]);
        // What is behind the packets asked for is not even read.
        let endless = BufReader::new(file.chain(std::io::repeat(0)));
        assert_eq!(frames(endless, 5).expect("frames").len(), 5);
        frames(&file[..file.len() - 3], 10).expect_err("the last packet is cut");
        frames(&b"GIF89a"[..], 10).expect_err("no capture");
    }
}
