//! Makes the next frame: all headers from the template, then what its flow determines. Nothing is
//! taken from the frame that is overwritten, since it may be what a program under test left.

use core::ops::Range;

use pen_common::bench::{self, Template};
use pen_common::csum::Checksum;
use pen_common::net::Be16;

use crate::maps;
use crate::packet::Frame;

const WORDS_V4: usize = bench::LENGTH_V4 as usize / 8;

#[inline(always)]
pub(crate) fn next_frame(frame: &Frame<'_>) -> Option<()> {
    let template = maps::template()?;
    if frame.length() != u64::from(template.length) {
        return None;
    }
    let position = maps::next(template.flows)?;
    let flow = bench::permute(position, template.flows, template.bits);
    write_words(frame, template, 0..WORDS_V4)?;
    match template.kind {
        Template::TCP4 => ipv4(frame, template, flow, bench::TCP_CHECKSUM),
        Template::UDP4 => ipv4(frame, template, flow, bench::UDP_CHECKSUM),
        Template::TCP6 => ipv6(frame, template, flow, bench::TCP_CHECKSUM),
        Template::UDP6 => ipv6(frame, template, flow, bench::UDP_CHECKSUM),
        _ => None,
    }
}

/// Of the template; the loop is unrolled.
#[inline(always)]
fn write_words(frame: &Frame<'_>, template: &Template, range: Range<usize>) -> Option<()> {
    for index in range {
        frame.write(index * 8, template.words.get(index)?)?;
    }
    Some(())
}

#[inline(always)]
fn ipv4(frame: &Frame<'_>, template: &Template, flow: u32, checksum_at: usize) -> Option<()> {
    let source = bench::source_v4(flow);
    let sum = Checksum::default().add(template.ip_sum).add_bytes(source);
    frame.write(bench::IPV4_CHECKSUM, &sum.finish())?;
    frame.write(bench::IPV4_SOURCE, &source)?;
    let sum = Checksum::default().add(template.transport_sum).add_bytes(source);
    transport(frame, bench::IPV4_PAYLOAD, flow, checksum_at, sum)
}

#[inline(always)]
fn ipv6(frame: &Frame<'_>, template: &Template, flow: u32, checksum_at: usize) -> Option<()> {
    write_words(frame, template, WORDS_V4..template.words.len())?;
    let [a, b, c, d] = bench::source_v6(flow);
    frame.write(bench::IPV6_SOURCE, &a)?;
    frame.write(bench::IPV6_SOURCE + 4, &b)?;
    frame.write(bench::IPV6_SOURCE + 8, &c)?;
    frame.write(bench::IPV6_SOURCE + 12, &d)?;
    let sum = Checksum::default().add(template.transport_sum);
    let sum = sum.add_bytes(a).add_bytes(b).add_bytes(c).add_bytes(d);
    transport(frame, bench::IPV6_PAYLOAD, flow, checksum_at, sum)
}

#[inline(always)]
fn transport(
    frame: &Frame<'_>,
    at: usize,
    flow: u32,
    checksum_at: usize,
    sum: Checksum,
) -> Option<()> {
    let port = bench::source_port(flow);
    frame.write(at, &port)?;
    let checksum = sum.add(u32::from(port.value())).finish();
    // RFC 768 keeps 0 for "no checksum"; for TCP both mean the same.
    let zero = checksum == Be16::default();
    let checksum = if zero { Be16::new(0xffff) } else { checksum };
    frame.write(at + checksum_at, &checksum)
}
