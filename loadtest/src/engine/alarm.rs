//! Wakes a poll at a moment. The time-out of a poll is in whole milliseconds, which is as long as many a latency.

use std::{io, os::fd::AsRawFd, os::fd::OwnedFd};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::clock::Time;

/// A timer of the kernel's.
pub(super) struct Alarm {
    timer: OwnedFd,
    /// When it goes off next, as far as it is set.
    set: Time,
}

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // Edges only: setting it again clears what has gone off, so it is never read.
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set: Time::default() })
    }

    /// Goes off at this moment, or before it: a wake-up too many costs less than setting it each turn.
    pub(super) fn at(&mut self, moment: Time, now: Time) -> io::Result<()> {
        if self.set > now && self.set <= moment {
            return Ok(());
        }
        let split = |time: Time| Timespec {
            tv_sec: (time.0 / 1_000_000_000).cast_signed(),
            tv_nsec: (time.0 % 1_000_000_000).cast_signed(),
        };
        let value = Itimerspec { it_interval: split(Time(0)), it_value: split(moment) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)?;
        self.set = moment;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn it_wakes_a_poll_not_before_its_time() {
        let mut poll = Poll::new().unwrap();
        let mut alarm = Alarm::new(poll.registry(), Token(7)).unwrap();
        let mut events = Events::with_capacity(4);
        for _ in 0..3 {
            let now = Time::now();
            let moment = now + Duration::from_micros(300);
            alarm.at(moment, now).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            assert_eq!(events.iter().next().map(|event| event.token()), Some(Token(7)));
            assert!(Time::now() >= moment);
        }
    }
}
