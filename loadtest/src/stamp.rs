//! What every payload begins with, and how it is found again in whatever a server wraps around it.
//!
//! A stamp is 33 bytes of plain ASCII: a mark, then in hexadecimal the channel, the message's number there, and when it was
//! *intended* to be sent. Nothing else in a payload holds the mark, so it is looked for in the stream of what a server sends
//! as data, and no server's wrapping has to be understood.

use crate::clock::Time;

/// Bytes of a stamp, which is also the shortest payload.
pub(crate) const STAMP: usize = 33;

const MARK: u8 = b'~';

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// What a payload says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) channel: u32,
    pub(crate) number: u32,
    /// When the message should have been sent, whether or not it was late.
    pub(crate) intended: Time,
}

impl Stamp {
    /// Appends a payload of `size` bytes that begins with this stamp.
    pub(crate) fn write(self, size: usize, into: &mut Vec<u8>) {
        into.push(MARK);
        push_hex(u64::from(self.channel), 8, into);
        push_hex(u64::from(self.number), 8, into);
        push_hex(self.intended.0, 16, into);
        into.resize(into.len() + size.saturating_sub(STAMP), b'.');
    }

    fn read(bytes: &[u8; STAMP]) -> Option<Self> {
        let channel = u32::try_from(hex(&bytes[1..9])?).ok()?;
        let number = u32::try_from(hex(&bytes[9..17])?).ok()?;
        Some(Self { channel, number, intended: Time(hex(&bytes[17..33])?) })
    }
}

fn push_hex(value: u64, digits: u32, into: &mut Vec<u8>) {
    into.extend((0..digits).rev().map(|digit| DIGITS[(value >> (4 * digit)) as usize & 15]));
}

fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    for digit in digits {
        value = value << 4
            | u64::from(match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            });
    }
    Some(value)
}

/// Finds stamps in a stream that comes in pieces. Holds less than one stamp.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    held: [u8; STAMP],
    have: u8,
    /// Bytes of filler that follow the last stamp and need not be looked at.
    skip: u32,
}

impl Default for Scan {
    fn default() -> Self {
        Self { held: [0; STAMP], have: 0, skip: 0 }
    }
}

impl Scan {
    /// Takes the next piece; payloads have `size` bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], size: usize, mut found: impl FnMut(Stamp)) {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            bytes = &bytes[skipped..];
            self.skip -= skipped as u32;
            if bytes.is_empty() {
                return;
            }
            let stamp = if self.have > 0 {
                let have = usize::from(self.have);
                let taken = bytes.len().min(STAMP - have);
                self.held[have..have + taken].copy_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                self.have += taken as u8;
                if usize::from(self.have) < STAMP {
                    return;
                }
                self.have = 0;
                Stamp::read(&self.held)
            } else {
                let Some(start) = memchr::memchr(MARK, bytes) else { return };
                bytes = &bytes[start..];
                let Some((head, rest)) = bytes.split_first_chunk::<STAMP>() else {
                    self.held[..bytes.len()].copy_from_slice(bytes);
                    self.have = bytes.len() as u8;
                    return;
                };
                bytes = rest;
                Stamp::read(head)
            };
            if let Some(stamp) = stamp {
                self.skip = size.saturating_sub(STAMP) as u32;
                found(stamp);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u32) -> Stamp {
        Stamp { channel: 7, number, intended: Time(0x0123_4567_89ab_cdef) }
    }

    fn scan(pieces: &[&[u8]], size: usize) -> Vec<Stamp> {
        let (mut scan, mut all) = (Scan::default(), Vec::new());
        for piece in pieces {
            scan.feed(piece, size, |stamp| all.push(stamp));
        }
        all
    }

    #[test]
    fn stamps_are_found_whatever_is_around_them_and_wherever_the_pieces_end() {
        let mut bytes = b"MSG load 1 128\r\n".to_vec();
        stamp(1).write(128, &mut bytes);
        bytes.extend(b"\r\n{\"data\":\"");
        stamp(u32::MAX).write(128, &mut bytes);
        bytes.extend(b"\"}");
        assert_eq!(scan(&[&bytes], 128), [stamp(1), stamp(u32::MAX)]);
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(scan(&[left, right], 128), [stamp(1), stamp(u32::MAX)], "cut at {cut}");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(scan(&single, 128), [stamp(1), stamp(u32::MAX)]);
    }

    #[test]
    fn a_payload_has_its_size_and_the_shortest_is_the_stamp() {
        for size in [STAMP, 128, 65_536] {
            let mut bytes = Vec::new();
            stamp(3).write(size, &mut bytes);
            assert_eq!(bytes.len(), size);
            assert_eq!(scan(&[&bytes, &bytes], size), [stamp(3), stamp(3)]);
        }
    }

    #[test]
    fn what_is_no_stamp_is_passed_over() {
        assert_eq!(scan(&[b"~ is no stamp, and neither is this: ~0000zzzz"], 128), []);
    }
}
