//! From the first byte of an answer to a subscription that stands.

use mio::{Interest, Registry, Token};

use crate::{
    clock::Time,
    control::Door,
    engine::{
        connection::Phase,
        opening,
        subscribers::{Subscribers, reason},
    },
    mqtt,
    setback::Setback,
    wire::{Chunks, Frames, Head, Wire, write_frame},
};

impl Subscribers {
    /// Takes a piece of the answer's head.
    pub(super) fn head(&mut self, index: usize, bytes: &[u8], registry: &Registry) {
        let earlier = self.partial.remove(&index);
        let whole = earlier.map(|mut earlier| {
            earlier.extend_from_slice(bytes);
            earlier
        });
        let bytes = whole.as_deref().unwrap_or(bytes);
        let head = match Head::read(bytes) {
            Err(broken) => return self.fail(index, broken.0.into()),
            Ok(None) => {
                self.partial.insert(index, bytes.to_owned());
                return;
            }
            Ok(Some(head)) => head,
        };
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let wire = match (plan.door, head.status) {
            (Door::WebSocket, 101) if head.accept.as_ref() == Some(&self.accept) => Wire::Frames(Frames::default()),
            (Door::WebSocket, 101) => return self.fail(index, "a wrong Sec-WebSocket-Accept".into()),
            (Door::EventStream, 200) if head.chunked => Wire::Chunks(Chunks::default()),
            (Door::EventStream, 200) => Wire::Plain,
            (_, status) => return self.fail(index, Setback::Status(status)),
        };
        let connection = &mut self.connections[index];
        connection.wire = wire;
        let number = plan.first + index as u32;
        for message in &plan.handshake.after_open {
            let text = opening::fill(message, plan, connection.channel, number, "");
            write_frame(1, text.as_bytes(), &mut self.reply);
        }
        if let Some(topic) = &plan.handshake.mqtt {
            let mut packets = Vec::new();
            mqtt::connect("", &mut packets);
            mqtt::subscribe(&opening::fill(topic, plan, connection.channel, number, ""), &mut packets);
            write_frame(2, &packets, &mut self.reply);
        }
        let sent = connection.stream.as_mut().map(|stream| stream.send(&self.reply));
        if let (false, Some(Err(error))) = (self.reply.is_empty(), sent) {
            self.reply.clear();
            return self.fail(index, reason(&error).into());
        }
        self.reply.clear();
        connection.phase = Phase::Confirming;
        self.confirm(index, &bytes[head.length..], registry);
    }

    /// Listens for the confirmation where there is to be one.
    pub(super) fn confirm(&mut self, index: usize, bytes: &[u8], registry: &Registry) {
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let confirm = match &plan.handshake.mqtt {
            Some(_) => Some(mqtt::SUBSCRIBED.to_owned()),
            None => plan.handshake.confirm.clone().map(String::into_bytes),
        };
        let Some(confirm) = confirm else {
            self.opened(index, registry);
            if !bytes.is_empty() {
                self.listen(index, bytes, false);
            }
            return;
        };
        self.listen(index, bytes, true);
        let heard = self.partial.get(&index).is_some_and(|text| memchr::memmem::find(text, &confirm).is_some());
        if heard && self.connections[index].phase == Phase::Confirming {
            self.partial.remove(&index);
            self.opened(index, registry);
        }
    }

    /// From now on those who are to stall do.
    pub(super) fn stall(&mut self, registry: &Registry) {
        self.stalling = true;
        (0..self.connections.len()).for_each(|index| self.stall_one(index, registry));
    }

    /// One who stalls is told no more of what it could read.
    fn stall_one(&mut self, index: usize, registry: &Registry) {
        let connection = &mut self.connections[index];
        if connection.stalled
            && connection.phase == Phase::Open
            && let Some(stream) = &mut connection.stream
        {
            // Where it is refused, it is told in vain.
            let _ = registry.reregister(stream.socket(), Token(index), Interest::WRITABLE);
        }
    }

    fn opened(&mut self, index: usize, registry: &Registry) {
        let connection = &mut self.connections[index];
        connection.phase = Phase::Open;
        self.pending -= 1;
        self.open += 1;
        self.opened += 1;
        self.connect.record(Time::now().since(connection.due));
        if self.stalling {
            self.stall_one(index, registry);
        }
    }
}
