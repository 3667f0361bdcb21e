//! As much MQTT 3.1.1 as it takes to hear a topic and to publish to it, without acknowledgements.

/// What a client says first, with its name; it never has to ping.
pub(crate) fn connect(name: &str, into: &mut Vec<u8>) {
    let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
    text(name, &mut body);
    packet(0x10, &body, into);
}

/// Asks for a topic; the answer is `SUBSCRIBED`.
pub(crate) fn subscribe(topic: &str, into: &mut Vec<u8>) {
    let mut body = vec![0, 1];
    text(topic, &mut body);
    body.push(0);
    packet(0x82, &body, into);
}

/// The answer to the one subscription of a client.
pub(crate) const SUBSCRIBED: &[u8] = &[0x90, 3, 0, 1, 0];

/// A message.
pub(crate) fn publish(topic: &str, payload: &[u8], into: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(2 + topic.len() + payload.len());
    text(topic, &mut body);
    body.extend(payload);
    packet(0x30, &body, into);
}

/// The length of the packet that these bytes begin with, once that much of it is there.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let (mut size, mut shift) = (0, 0);
    for (place, byte) in bytes.iter().enumerate().skip(1).take(4) {
        size |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(place + 1 + size).filter(|length| bytes.len() >= *length);
        }
    }
    None
}

fn packet(kind: u8, body: &[u8], into: &mut Vec<u8>) {
    into.push(kind);
    let mut size = body.len();
    loop {
        let more = if size > 0x7f { 0x80 } else { 0 };
        into.push((size & 0x7f) as u8 | more);
        size >>= 7;
        if more == 0 {
            break;
        }
    }
    into.extend(body);
}

fn text(text: &str, into: &mut Vec<u8>) {
    into.extend((text.len() as u16).to_be_bytes());
    into.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_the_standard_has_them() {
        let (mut connected, mut subscribed, mut published) = (Vec::new(), Vec::new(), Vec::new());
        connect("a", &mut connected);
        assert_eq!(connected, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a");
        subscribe("x/1", &mut subscribed);
        assert_eq!(subscribed, b"\x82\x08\x00\x01\x00\x03x/1\x00");
        publish("x/1", &[b'.'; 200], &mut published);
        assert_eq!(published[..8], *b"\x30\xcd\x01\x00\x03x/1");
        for packet in [connected, subscribed, published] {
            assert_eq!(length(&packet), Some(packet.len()));
            for cut in 0..packet.len() {
                assert_eq!(length(&packet[..cut]), None, "cut at {cut}");
            }
        }
    }
}
