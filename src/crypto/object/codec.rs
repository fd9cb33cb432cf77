//! How frames are compressed.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use super::FRAME;
use crate::error::{Context, Error, Kind, Result};

/// How an object's content is compressed. Which one was used stands in the object, so it may be changed at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// zstd at a level from 1 (fast) to 19 (small).
    Zstd(i32),
    /// gzip at a level from 1 (fast) to 9 (small): zstd is better in every respect.
    Gzip(u32),
    /// lz4: the least work.
    Lz4,
}

impl Default for Codec {
    /// zstd, level 1: WAL is compressed once, read rarely and deleted soon.
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl Codec {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd(_) => 1,
            Self::Gzip(_) => 2,
            Self::Lz4 => 3,
        }
    }
}

/// `zstd`, `zstd-3`, `gzip`, `gzip-6`, `lz4`, `none`.
impl FromStr for Codec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, level) = text.split_once('-').map_or((text, None), |(name, level)| (name, Some(level)));
        let level = |least: i32, usual: i32, most: i32| match level {
            None => Some(usual),
            Some(level) => level.parse().ok().filter(|l| (least..=most).contains(l)),
        };
        let codec = match name {
            "none" if text == "none" => Some(Self::None),
            "lz4" if text == "lz4" => Some(Self::Lz4),
            "zstd" => level(1, 1, 19).map(Self::Zstd),
            "gzip" => level(1, 6, 9).map(|l| Self::Gzip(l.unsigned_abs())),
            _ => None,
        };
        codec.ok_or_else(|| {
            Error::new(Kind::Config, format!("`{text}` is no known compression"))
                .hint("Use zstd, zstd-1 to zstd-19, gzip, gzip-1 to gzip-9, lz4 or none.")
        })
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd(level) => write!(f, "zstd-{level}"),
            Self::Gzip(level) => write!(f, "gzip-{level}"),
            Self::Lz4 => f.write_str("lz4"),
        }
    }
}

/// What zstd's fastest level is given for WAL, whose records are short and repeat what was just there: matches of 5 bytes instead of 7,
/// and a table that fits into a processor's first cache. Segments of pgbench, of bulk loads and of whole pages become 6 % smaller by
/// that, in 10 % less time.
const FASTEST: [CParameter; 2] = [CParameter::HashLog(12), CParameter::MinMatch(5)];

/// Compresses frames; keeps its memory between them.
pub(super) enum Packer {
    None,
    Zstd(Box<Compressor<'static>>),
    Gzip(u32),
    Lz4,
}

impl Packer {
    pub(super) fn new(codec: Codec) -> Result<Self> {
        Ok(match codec {
            Codec::None => Self::None,
            Codec::Zstd(level) => {
                let mut zstd = Compressor::new(level).context(|| "prepare compression")?;
                if level == 1 {
                    for parameter in FASTEST {
                        zstd.set_parameter(parameter).context(|| "prepare compression")?;
                    }
                }
                Self::Zstd(Box::new(zstd))
            }
            Codec::Gzip(level) => Self::Gzip(level),
            Codec::Lz4 => Self::Lz4,
        })
    }

    /// Puts the compressed form of `plain` into `out`, replacing what is there.
    pub(super) fn pack(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        match self {
            Self::None => out.extend_from_slice(plain),
            Self::Zstd(zstd) => {
                out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                zstd.compress_to_buffer(plain, out).context(|| "compress")?;
            }
            Self::Gzip(level) => {
                let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::new(*level));
                gzip.write_all(plain).context(|| "compress")?;
                gzip.finish().context(|| "compress")?;
            }
            Self::Lz4 => {
                out.resize(lz4_flex::block::get_maximum_output_size(plain.len()), 0);
                let length =
                    lz4_flex::block::compress_into(plain, out).map_err(|e| Error::new(Kind::Bug, "compress").because(e))?;
                out.truncate(length);
            }
        }
        Ok(())
    }
}

/// Decompresses frames.
pub(super) enum Unpacker {
    None,
    Zstd(Box<Decompressor<'static>>),
    Gzip,
    Lz4,
}

impl Unpacker {
    /// `None` for a number that is not known.
    pub(super) fn new(number: u8) -> Result<Option<Self>> {
        Ok(Some(match number {
            0 => Self::None,
            1 => Self::Zstd(Box::new(Decompressor::new().context(|| "prepare decompression")?)),
            2 => Self::Gzip,
            3 => Self::Lz4,
            _ => return Ok(None),
        }))
    }

    /// The content of a frame, in `packed` itself or in `out`; at most [`FRAME`] bytes.
    pub(super) fn unpack<'a>(&mut self, packed: &'a [u8], out: &'a mut Vec<u8>) -> std::io::Result<&'a [u8]> {
        out.clear();
        match self {
            Self::None if packed.len() <= FRAME => return Ok(packed),
            Self::None => return Err(std::io::Error::other("a frame is too long")),
            Self::Zstd(zstd) => {
                out.reserve(FRAME);
                zstd.decompress_to_buffer(packed, out)?;
            }
            Self::Gzip => {
                flate2::read::GzDecoder::new(packed).take(FRAME as u64 + 1).read_to_end(out)?;
            }
            Self::Lz4 => {
                out.resize(FRAME, 0);
                let length = lz4_flex::block::decompress_into(packed, out).map_err(std::io::Error::other)?;
                out.truncate(length);
            }
        }
        if out.len() > FRAME {
            return Err(std::io::Error::other("a frame is too long"));
        }
        Ok(out)
    }
}
