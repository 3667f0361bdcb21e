//! What the policies keep, and that no frame is ever cut.

use super::*;

/// A client that takes a number of bytes and then blocks.
#[derive(Default)]
struct Client {
    took: Vec<u8>,
    room: usize,
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room -= taken;
        self.took.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

/// A run of messages `(channel, text)`.
fn run(messages: &[(&str, &str)]) -> Run {
    let mut run = Run::default();
    for (name, text) in messages {
        run.push(&channel(name), None, |out| out.extend_from_slice(text.as_bytes()));
    }
    run
}

/// All that waits, in order.
fn drain(outbox: &mut Outbox) -> String {
    let mut client = Client { room: usize::MAX, ..Client::default() };
    outbox.flush(&mut client, usize::MAX).unwrap();
    assert!(outbox.is_empty() && outbox.bytes() == 0 && outbox.latest.is_empty());
    String::from_utf8(client.took).unwrap()
}

fn waits(oldest: usize, latest: usize) -> Pushed {
    Pushed::Waits(Dropped { oldest, latest })
}

/// Room for so many messages of `length` bytes.
fn room_for(messages: usize, length: usize) -> usize {
    messages * (length + ENTRY_BYTES)
}

#[test]
fn what_was_not_written_waits_in_order() {
    for written in 0..=9 {
        for slow in [SlowPolicy::Disconnect, SlowPolicy::DropOldest] {
            let mut outbox = Outbox::default();
            let mut run = run(&[("a", "abc"), ("a", "def"), ("b", "ghi")]);
            let pushed = outbox.push_run(&mut run, written, 0, slow, 10_000);
            assert_eq!(pushed, waits(0, 0));
            assert_eq!(drain(&mut outbox), "abcdefghi"[written..], "{written} {slow:?}");
        }
    }
}

#[test]
fn a_full_outbox_says_so_and_keeps_what_was_begun() {
    let mut outbox = Outbox::default();
    let pushed = outbox.push_run(&mut run(&[("a", "abc"), ("a", "def")]), 1, 0, SlowPolicy::Disconnect, 10);
    assert_eq!(pushed, Pushed::Full);
    outbox.shed();
    outbox.keep("bye".into());
    assert_eq!(drain(&mut outbox), "bcbye");
}

#[test]
fn the_oldest_go_first_and_the_begun_one_stays() {
    let mut outbox = Outbox::default();
    let bound = room_for(3, 3);
    let first =
        outbox.push_run(&mut run(&[("a", "abc"), ("a", "def"), ("a", "ghi")]), 0, 0, SlowPolicy::DropOldest, bound);
    assert_eq!(first, waits(0, 0));
    outbox.flush(&mut Client { room: 1, ..Client::default() }, usize::MAX).unwrap();
    let second = outbox.push_run(&mut run(&[("a", "jkl"), ("a", "mno")]), 0, 0, SlowPolicy::DropOldest, bound);
    assert_eq!(second, waits(2, 0));
    assert!(outbox.bytes() <= bound);
    assert_eq!(drain(&mut outbox), "bcjklmno");
}

#[test]
fn messages_of_other_policies_are_not_dropped_for_it() {
    let mut outbox = Outbox::default();
    let bound = room_for(2, 3);
    outbox.push_run(&mut run(&[("a", "abc")]), 0, 0, SlowPolicy::Disconnect, bound);
    outbox.push_run(&mut run(&[("b", "def")]), 0, 0, SlowPolicy::DropOldest, bound);
    let pushed = outbox.push_run(&mut run(&[("b", "ghi")]), 0, 0, SlowPolicy::DropOldest, bound);
    assert_eq!(pushed, waits(1, 0));
    let too_long = outbox.push_run(&mut run(&[("b", "too long")]), 0, 0, SlowPolicy::DropOldest, bound);
    assert_eq!(too_long, waits(2, 0));
    assert_eq!(drain(&mut outbox), "abc");
}

#[test]
fn the_newest_of_each_channel_stays() {
    let mut outbox = Outbox::default();
    let mut messages = run(&[("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("a", "a3"), ("b", "b2")]);
    let pushed = outbox.push_run(&mut messages, 1, 0, SlowPolicy::Latest, 10_000);
    // The one that was begun is of channel `a` and is written all the same.
    assert_eq!(pushed, waits(0, 2));
    assert_eq!(drain(&mut outbox), "1c1a3b2");
}

#[test]
fn the_newest_of_many_channels_are_bounded_too() {
    let mut outbox = Outbox::default();
    let pushed =
        outbox.push_run(&mut run(&[("a", "a1"), ("b", "b1"), ("c", "c1")]), 0, 0, SlowPolicy::Latest, room_for(2, 2));
    assert_eq!(pushed, waits(0, 1));
    assert_eq!(drain(&mut outbox), "b1c1");
}

#[test]
fn gaps_are_closed_and_the_books_stay_right() {
    let mut outbox = Outbox::default();
    outbox.keep("<".into());
    for number in 0..10_000 {
        let name = format!("c{}", number % 7);
        let mut one = run(&[(&name, &format!("[{number}]"))]);
        outbox.push_run(&mut one, 0, 0, SlowPolicy::Latest, 100_000);
        if number % 1000 == 999 {
            outbox.flush(&mut Client { room: 2, ..Client::default() }, usize::MAX).unwrap();
        }
        assert!(outbox.entries.len() <= 2 * (GAPS + 9));
    }
    let left = drain(&mut outbox);
    assert!(left.ends_with("993][9994][9995][9996][9997][9998][9999]"), "{left}");
}

#[test]
fn what_is_no_message_is_bounded_unless_it_must_go() {
    let mut outbox = Outbox::default();
    assert_eq!(outbox.push("pong".into(), room_for(1, 4)), waits(0, 0));
    assert_eq!(outbox.push("pong".into(), room_for(1, 4)), Pushed::Full);
    outbox.keep("close".into());
    assert_eq!(drain(&mut outbox), "pongclose");
}

#[test]
fn what_must_stay_takes_the_room_of_what_may_go() {
    let mut outbox = Outbox::default();
    let bound = room_for(3, 3);
    outbox.push_run(&mut run(&[("a", "abc"), ("a", "def")]), 0, 0, SlowPolicy::DropOldest, bound);
    outbox.push_run(&mut run(&[("b", "ghi")]), 0, 0, SlowPolicy::Latest, bound);
    assert_eq!(outbox.push_run(&mut run(&[("c", "jkl")]), 0, 0, SlowPolicy::Disconnect, bound), waits(1, 0));
    assert_eq!(outbox.push_run(&mut run(&[("c", "mnopqr")]), 0, 0, SlowPolicy::Disconnect, bound), waits(1, 1));
    assert_eq!(outbox.push_run(&mut run(&[("c", "stuvwxyz")]), 0, 0, SlowPolicy::Disconnect, bound), Pushed::Full);
    assert_eq!(drain(&mut outbox), "jklmnopqr");
}

#[test]
fn one_pong_waits_and_it_is_the_last() {
    let mut outbox = Outbox::default();
    outbox.keep("begun".into());
    outbox.flush(&mut Client { room: 1, ..Client::default() }, usize::MAX).unwrap();
    for number in 0..1000 {
        outbox.keep_pong(format!("<{number}>").into());
        outbox.push_run(&mut run(&[("a", &number.to_string())]), 0, 0, SlowPolicy::Latest, 10_000);
    }
    assert!(outbox.entries.len() <= 2 * (GAPS + 3));
    assert_eq!(drain(&mut outbox), "egun<999>999");
}

#[test]
fn a_pong_that_has_begun_is_not_taken_back() {
    let mut outbox = Outbox::default();
    outbox.keep_pong("<1>".into());
    let mut client = Client { room: 1, ..Client::default() };
    outbox.flush(&mut client, usize::MAX).unwrap();
    outbox.keep_pong("<2>".into());
    outbox.keep_pong("<3>".into());
    assert_eq!(drain(&mut outbox), "1><3>");
}

#[test]
fn a_turn_has_its_share() {
    let mut outbox = Outbox::default();
    (0..100).for_each(|_| outbox.keep("0123456789".into()));
    let mut client = Client { room: usize::MAX, ..Client::default() };
    let first = outbox.flush(&mut client, 100).unwrap();
    assert!(first.more && first.written >= 100 && first.written < 1000, "{first:?}");
    let rest = outbox.flush(&mut client, 1000).unwrap();
    assert_eq!((rest.more, first.written + rest.written), (false, 1000));
}
