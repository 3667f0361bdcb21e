//! What connections are told beside messages: notices, how far they have come, and the one answer of a poll.

use bytes::Bytes;
use clarion_protocol::{CloseCode, Position, Wording};

use super::{
    Roster,
    record::Key,
    writing::{Given, Lost},
};
use crate::{
    connection::Phase,
    framing::Framing,
    metrics::End,
    outbox::Pushed,
    run::Run,
    seat::{Bookmark, Notice, Reached},
};

/// A connection whose cursor no single message can name.
pub(super) struct Marked {
    bookmark: Box<dyn Bookmark>,
    wording: Wording,
    /// All its seats are live. Before that the places of those that are not would be wrong.
    released: bool,
    /// Something was written in this turn, or is to be told at its end.
    moved: bool,
    mail: Option<Mail>,
}

/// What a poll is going to be answered.
struct Mail {
    /// The head of a response with the status 200 and without a length.
    head: Bytes,
    /// Messages, each with a comma behind it.
    body: Vec<u8>,
    gap: Option<Bytes>,
}

impl Roster {
    /// Keeps how far a connection comes. Of a poll, `head` is the head of its response.
    pub(crate) fn mark(&mut self, key: Key, wording: Wording, bookmark: Box<dyn Bookmark>, head: Option<Bytes>) {
        let mail = head.map(|head| Mail { head, body: Vec::new(), gap: None });
        self.marked.insert(key.index, Marked { bookmark, wording, released: false, moved: false, mail });
    }

    /// Whether how far a connection has come is kept, so that its seats are always looked at.
    pub(crate) fn is_marked(&self, index: u32) -> bool {
        !self.marked.is_empty() && self.marked.contains_key(&index)
    }

    /// A message of this place is written to a connection.
    pub(super) fn note_passed(&mut self, index: u32, position: Option<&Position>) {
        let Some(position) = position else { return };
        if let Some(marked) = self.marked.get_mut(&index) {
            marked.bookmark.pass(position);
            marked.remember(index, &mut self.moved_marks);
        }
    }

    /// A connection fell behind: it is not told how far it has come until it has caught up.
    pub(super) fn note_behind(&mut self, index: u32, from: &[Reached]) {
        if let Some(marked) = self.marked.get_mut(&index) {
            marked.released = false;
            from.iter().for_each(|place| marked.bookmark.set(place));
        }
    }

    /// All seats of a connection are live, and these places were read up to.
    pub(crate) fn release_mark(&mut self, key: Key, reached: &[Reached]) {
        if self.record(key).is_none_or(|record| !record.is_open()) {
            return;
        }
        let Some(marked) = self.marked.get_mut(&key.index) else { return };
        for Reached { epoch, offset } in reached {
            marked.bookmark.pass(&Position { offset: *offset, epoch: epoch.clone(), previous: None });
        }
        marked.released = true;
        marked.remember(key.index, &mut self.moved_marks);
    }

    /// Tells those who were written something in this turn how far they have come: only now all of it was written, whichever
    /// seats it came by.
    pub(crate) fn end_turn(&mut self) {
        while let Some(index) = self.moved_marks.pop() {
            let Some(marked) = self.marked.get_mut(&index) else { continue };
            marked.moved = false;
            let Some(record) = self.records.get(index as usize).filter(|_| marked.released) else { continue };
            let key = Key { index, serial: record.serial };
            match &marked.mail {
                None => {
                    let cursor = Some(marked.bookmark.text().into());
                    let notice = Notice { name: Notice::CURSOR, data: Bytes::new(), cursor };
                    if let Some(words) = record.framing.notice(marked.wording, &notice) {
                        self.tell(key, words);
                    }
                }
                Some(mail) if mail.body.is_empty() && mail.gap.is_none() => {}
                Some(_) => self.answer(key),
            }
        }
    }

    /// Tells one connection something, in the wording of its first seat.
    pub(crate) fn notify(&mut self, key: Key, wording: Wording, notice: &Notice) {
        let Some(record) = self.record(key).filter(|record| record.is_open()) else { return };
        let framing = record.framing;
        if framing == Framing::Poll {
            if let Some(marked) = self.marked.get_mut(&key.index).filter(|_| notice.name == Notice::GAP)
                && let Some(mail) = &mut marked.mail
            {
                mail.gap = Some(notice.data.clone());
                marked.remember(key.index, &mut self.moved_marks);
            }
        } else if let Some(words) = framing.notice(wording, notice) {
            self.tell(key, words);
        } else if notice.name == Notice::GAP {
            self.close(key, CloseCode::InsufficientState);
        }
    }

    /// Says words of ours within the connection's bound: whoever does not read must not be told things without end.
    fn tell(&mut self, key: Key, words: Bytes) {
        let bound = self.common.settings.outbox_bytes;
        let Some(record) = self.record(key).filter(|record| record.is_open()) else { return };
        match &mut record.outbox {
            None => self.say(key, words),
            Some(outbox) => {
                if matches!(outbox.push(words, bound), Pushed::Full) {
                    self.part_with(key, Lost::Slow);
                }
            }
        }
    }

    /// Keeps a run for the answer of a poll.
    pub(super) fn post(&mut self, key: Key, run: &Run) -> Given {
        let bound = self.common.settings.outbox_bytes;
        let Some(marked) = self.marked.get_mut(&key.index) else { return Given::Nobody };
        marked.remember(key.index, &mut self.moved_marks);
        let Some(mail) = &mut marked.mail else { return Given::Nobody };
        if mail.body.len() + run.bytes().len() > bound {
            return Given::Lost(key, Lost::Slow);
        }
        mail.body.extend_from_slice(run.bytes());
        Given::All
    }

    /// Answers a poll with what there is for it, and lets it go.
    fn answer(&mut self, key: Key) {
        let Some(marked) = self.marked.remove(&key.index) else { return };
        let Some(mail) = &marked.mail else { return };
        let cursor = marked.bookmark.text();
        let mut body = Vec::with_capacity(mail.body.len() + cursor.len() + 64);
        body.extend_from_slice(br#"{"messages":["#);
        body.extend_from_slice(mail.body.strip_suffix(b",").unwrap_or_default());
        body.extend_from_slice(br#"],"cursor":""#);
        body.extend_from_slice(cursor.as_bytes());
        body.push(b'"');
        if let Some(gap) = &mail.gap {
            body.extend_from_slice(br#","gap":"#);
            body.extend_from_slice(gap);
        }
        body.extend_from_slice(b"}\n");
        let mut response = mail.head.strip_suffix(b"\r\n").unwrap_or(&mail.head).to_vec();
        response.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        response.extend_from_slice(&body);
        self.part(key, Phase::Closing, End::Said(CloseCode::Normal));
        self.say(key, response.into());
    }

    /// What a poll is answered for which nothing has come: where to go on.
    pub(super) fn nothing(&self, index: u32) -> Bytes {
        let Some(marked) = self.marked.get(&index) else { return Bytes::new() };
        let head = marked.mail.as_ref().map_or(&b""[..], |mail| &mail.head);
        // The same head with another status.
        let end = head.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let headers = head[end..].strip_suffix(b"\r\n").unwrap_or_default();
        let cursor = format!("clarion-cursor: {}\r\n\r\n", marked.bookmark.text());
        [&b"HTTP/1.1 204 No Content\r\n"[..], headers, cursor.as_bytes()].concat().into()
    }
}

impl Marked {
    fn remember(&mut self, index: u32, moved: &mut Vec<u32>) {
        if !std::mem::replace(&mut self.moved, true) {
            moved.push(index);
        }
    }
}
