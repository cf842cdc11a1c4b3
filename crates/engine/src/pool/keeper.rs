//! Keeps the pool as it should be: makes what is missing, ends what is too much, too old, dead or out of date.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use caisson_core::{Image, ImageLease, SandboxSpec, Tenant};
use futures::future::join_all;
use tokio::time::Instant;

use super::{
    Kind, Pool,
    shape::Shape,
    warm::{NotMade, Place, Warm},
};
use crate::{core::Core, images};

/// Between two looks when nothing happens, as long as there is anything to look at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two times that sandboxes and images are asked how they are.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Of each kind so many are asked, the oldest first.
const ASKED_AT_ONCE: usize = 2;
/// Made at one time.
const MAKING: usize = 1;
/// So long the pool stands back while somebody waits for a launch. Under load without a pause it would be empty for ever otherwise.
const STANDS_BACK: Duration = Duration::from_millis(250);
/// As it does for so long after one was handed out: most of what is run in it is short, and making the next one takes a processor for longer.
const LETS_RUN: Duration = Duration::from_millis(40);
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Older ones are replaced: what they have opened should not be older than what the host has by then.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// After a failure none is made for so long, twice as long after the next, up to the longest.
const RESTS: Duration = Duration::from_secs(1);
const RESTS_AT_MOST: Duration = Duration::from_secs(300);

/// What is to be made.
struct Order {
    shape: Shape,
    spec: SandboxSpec,
    tenant: Tenant,
}

/// Until the server is shut down.
pub(crate) async fn keep(core: Arc<Core>) {
    let Some(pool) = &core.pool else { return };
    let (mut asked_at, mut shrunk_at) = (Instant::now(), Instant::now());
    let mut stands_back_since = None;
    while !core.closing.is_cancelled() {
        if asked_at.elapsed() >= ASK_EVERY {
            ask_images(&core, pool).await;
            ask_sandboxes(pool).await;
            asked_at = Instant::now();
        }
        let may_shrink = shrunk_at.elapsed() >= LOOK_EVERY;
        if may_shrink {
            shrunk_at = Instant::now();
        }
        pool.tidy(may_shrink);
        let missing = refill(&core, pool, &mut stands_back_since);
        let pause = match (missing, pool.is_idle(Instant::now())) {
            (true, _) => LOOK_AGAIN,
            (false, false) => LOOK_EVERY,
            (false, true) => Duration::from_secs(3600),
        };
        tokio::select! {
            () = core.closing.cancelled() => {}
            // What was told in between is looked at all the same.
            () = pool.work.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    pool.clear();
}

/// Begins to make the next one. Returns whether that has to wait for what somebody waits for.
fn refill(core: &Arc<Core>, pool: &Pool, stands_back_since: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let Some(order) = pool.next_order(now) else {
        *stands_back_since = None;
        return false;
    };
    let is_used = pool.foreground.load(Ordering::Acquire) > 0 || pool.since_handed_out().is_some_and(|since| since < LETS_RUN);
    if is_used && stands_back_since.get_or_insert(now).elapsed() < STANDS_BACK {
        return true;
    }
    if !core.registry.add_pooled(spare(core.config.max_sandboxes)) {
        return false;
    }
    *stands_back_since = None;
    pool.begin(&order.shape);
    let core = Arc::clone(core);
    let place = Place::counted(&core);
    core.tasks.clone().spawn(async move {
        let begun = Instant::now();
        let made = make(&core, &order, place).await;
        if let Some(pool) = &core.pool {
            pool.arrived(&core, &order, made, begun.elapsed());
        }
    });
    false
}

/// Places that are left for those who ask.
fn spare(max: usize) -> usize {
    (max / 8).max(1)
}

async fn make(core: &Arc<Core>, order: &Order, place: Place) -> Result<Warm, NotMade> {
    let lease = look_up(core, order).await?;
    Warm::make(core, place, order.spec.clone(), lease).await
}

/// The image has to be the one that it was, and stay.
async fn look_up(core: &Core, order: &Order) -> Result<Option<ImageLease>, NotMade> {
    let Image::Stored(image) = &order.spec.image else { return Ok(None) };
    let mut spec = SandboxSpec { image: Image::Named { name: image.name.clone(), id: None }, ..order.spec.clone() };
    let found = images::resolve(core, &order.tenant, &mut spec).await;
    match found {
        Ok(lease) if spec.image.id() == Some(image.id) => Ok(lease),
        _ => Err(NotMade::Image),
    }
}

/// Kinds whose image is another by now, or gone, are wanted by nobody any more.
async fn ask_images(core: &Core, pool: &Pool) {
    for order in pool.of_images() {
        if look_up(core, &order).await.is_err() {
            pool.outdate(&order.shape);
        }
    }
}

async fn ask_sandboxes(pool: &Pool) {
    let asking = pool.oldest().into_iter().map(|(shape, mut warm)| async move {
        if warm.answers().await {
            pool.put_back(&shape, warm);
        } else {
            tracing::warn!(sandbox.id = %warm.id, "A warm sandbox does not answer any more");
            pool.drop_one(warm);
        }
    });
    join_all(asking).await;
}

impl Pool {
    /// Ends what is dead or too old, and of each kind one that is too much where it `may_shrink`.
    fn tidy(&self, may_shrink: bool) {
        let now = Instant::now();
        let mut kinds = self.kinds();
        for kind in kinds.iter_mut() {
            let (target, max_age) = (kind.target(now), kind.warmth.max_age.unwrap_or(MAX_AGE));
            let (good, bad) = std::mem::take(&mut kind.warm)
                .into_iter()
                .map(|mut warm| (now.saturating_duration_since(warm.born) < max_age && !warm.has_ended() && !kind.is_outdated, warm))
                .partition::<Vec<_>, _>(|(good, _)| *good);
            kind.warm = good.into_iter().map(|(_, warm)| warm).collect();
            self.drop_all(bad.into_iter().map(|(_, warm)| warm).collect());
            if may_shrink
                && kind.warm.len() > target.max(kind.warmth.stay as usize)
                && let Some(oldest) = kind.warm.pop_front()
            {
                self.drop_one(oldest);
            }
        }
        kinds.retain_mut(|kind| kind.is_pinned || kind.making > 0 || !kind.warm.is_empty() || !kind.is_outdated && kind.target(now) > 0);
    }

    /// Whether there is nothing to look at, and nothing to be made.
    fn is_idle(&self, now: Instant) -> bool {
        self.kinds().iter_mut().all(|kind| kind.warm.is_empty() && kind.making == 0 && kind.target(now) == 0)
    }

    /// What is missing most, unless as many as may be are made at the moment.
    fn next_order(&self, now: Instant) -> Option<Order> {
        let mut kinds = self.kinds();
        if kinds.iter().map(|kind| kind.making).sum::<usize>() >= MAKING {
            return None;
        }
        let mut best: Option<(usize, usize)> = None;
        for index in 0..kinds.len() {
            let kind = &mut kinds[index];
            let missing = kind.target(now).saturating_sub(kind.warm.len() + kind.making);
            if missing == 0 || kind.rests_until > now || best.is_some_and(|(most, _)| most >= missing) {
                continue;
            }
            // All kinds of one template together are no more than it allows.
            let kin: usize =
                kinds.iter().filter(|other| other.shape.is_kin(&kinds[index].shape)).map(|other| other.warm.len() + other.making).sum();
            if kin < kinds[index].warmth.max as usize {
                best = Some((missing, index));
            }
        }
        let kind = &kinds[best?.1];
        Some(Order { shape: kind.shape.clone(), spec: kind.spec.clone(), tenant: kind.tenant.clone() })
    }

    fn begin(&self, shape: &Shape) {
        self.with(shape, |kind| kind.making += 1);
    }

    /// Takes what was made, where it is still wanted.
    fn arrived(&self, core: &Core, order: &Order, made: Result<Warm, NotMade>, took: Duration) {
        let now = Instant::now();
        match &made {
            Ok(_) => self.counts.made.fetch_add(1, Ordering::Relaxed),
            Err(NotMade::Closing) => 0,
            Err(_) => self.counts.failed.fetch_add(1, Ordering::Relaxed),
        };
        self.with(&order.shape, |kind| {
            kind.making = kind.making.saturating_sub(1);
            match made {
                // Dropped where it is out of date, in somebody's way, or everything ends.
                Ok(warm) if !kind.is_outdated && !core.closing.is_cancelled() && !core.registry.is_crowded() => {
                    kind.failures = 0;
                    kind.demand.made(took);
                    kind.warm.push_back(warm);
                }
                Ok(_) | Err(NotMade::Closing) => {}
                Err(NotMade::Image) => kind.is_outdated = true,
                Err(error) => kind.failed(&error, now),
            }
        });
        self.work.notify_one();
    }

    /// One for each kind that is made of an image of the store.
    fn of_images(&self) -> Vec<Order> {
        let kinds = self.kinds();
        let of_images = kinds.iter().filter(|kind| !kind.is_outdated && matches!(kind.shape.image(), Image::Stored(_)));
        of_images.map(|kind| Order { shape: kind.shape.clone(), spec: kind.spec.clone(), tenant: kind.tenant.clone() }).collect()
    }

    fn outdate(&self, shape: &Shape) {
        self.with(shape, |kind| kind.is_outdated = true);
    }

    /// Takes the oldest of each kind out, to be asked how they are. Where there are more, some are left for those who come meanwhile.
    fn oldest(&self) -> Vec<(Shape, Warm)> {
        let mut taken = Vec::new();
        for kind in self.kinds().iter_mut() {
            let some = kind.warm.len().saturating_sub(1).min(ASKED_AT_ONCE).max(usize::from(kind.warm.len() == 1));
            taken.extend(kind.warm.drain(..some).map(|warm| (kind.shape.clone(), warm)));
        }
        taken
    }

    fn with(&self, shape: &Shape, change: impl FnOnce(&mut Kind)) {
        if let Some(kind) = self.kinds().iter_mut().find(|kind| kind.shape == *shape) {
            change(kind);
        }
    }
}

impl Kind {
    /// The first failure of a row is told, and the next ones are tried for less and less.
    fn failed(&mut self, error: &NotMade, now: Instant) {
        if self.failures == 0 {
            let name = self.shape.template().or(self.shape.dialect()).unwrap_or("the built-in image").to_owned();
            tracing::warn!(%error, "No sandbox of {name} can be kept warm: {error}");
        }
        self.rests_until = now + (RESTS * 2_u32.saturating_pow(self.failures)).min(RESTS_AT_MOST);
        self.failures = self.failures.saturating_add(1).min(16);
    }
}
