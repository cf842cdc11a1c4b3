//! What lasts from one request to the next.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    answer::unavailable,
    live::Live,
    queue::{Queue, Slot},
    rate::Rates,
    settings::BoxboxSettings,
};
use crate::error::ApiResult;

/// For those who found the queue full.
const COME_BACK: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) rates: Rates,
    pub(super) live: Live,
    queue: Queue,
}

impl State {
    pub(crate) fn new(settings: &BoxboxSettings) -> Self {
        Self { rates: Rates::default(), live: Live::default(), queue: Queue::new(settings.slots) }
    }

    /// The right to one execution, once there is one.
    pub(super) async fn turn(&self, settings: &BoxboxSettings, stopping: &CancellationToken, user: &str) -> ApiResult<Slot> {
        tokio::select! {
            // Who waits has begun nothing.
            biased;
            () = stopping.cancelled() => Err(unavailable("server_shutting_down", "server is shutting down, please retry").after(COME_BACK)),
            slot = timeout(settings.wait, self.queue.slot(user)) => slot.ok().flatten().ok_or_else(|| {
                unavailable("queue_timeout", "execution queue is full, please retry later").after(COME_BACK)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_answered_in_time() {
        let settings = BoxboxSettings { slots: 1, wait: Duration::from_millis(200), ..BoxboxSettings::default() };
        let (state, stopping) = (State::new(&settings), CancellationToken::new());
        let turn = || state.turn(&settings, &stopping, "u");
        let code = |refused: ApiResult<Slot>| refused.unwrap_err().parts().1.to_owned();
        let first = turn().await.unwrap();
        let begin = Instant::now();
        assert_eq!(code(turn().await), "queue_timeout");
        assert!(begin.elapsed() >= settings.wait, "{:?}", begin.elapsed());
        let (second, ()) = tokio::join!(turn(), async { drop(first) });
        let _second = second.unwrap();
        let (third, ()) = tokio::join!(turn(), async { stopping.cancel() });
        assert_eq!(code(third), "server_shutting_down");
        assert_eq!(code(turn().await), "server_shutting_down");
    }
}
