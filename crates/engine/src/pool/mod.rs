//! The warm pool: sandboxes that are launched and set up before anybody asks for one.
//!
//! ```text
//! keeper ─▶ launch ─▶ agent answers ─▶ set-up ─▶ waits ─┬─▶ handed out: room, limits and variables, record, `Living`
//!                                                      └─▶ destroyed: too many, too old, dead, its template or image changed
//! ```
//! A pooled sandbox is an ordinary one without an owner: it is in no list and has no record, and counts among those there may be. It is handed
//! out once. Whoever finds none that fits gets a sandbox of its own, as without a pool.

mod demand;
mod keeper;
mod shape;
mod warm;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use caisson_core::{Digest, Image, Recipe, SandboxSpec, Tenant, Warmth};
use tokio::{sync::Notify, time::Instant};

use self::{demand::Demand, shape::Shape, warm::NotSuited};
pub(crate) use self::{keeper::keep, warm::Warm};
use crate::{Engine, core::Core, images, metrics::PoolSnapshot};

/// Kinds of sandboxes whose demand is known at one time; the one that was asked for least makes room.
const MOST_KINDS: usize = 64;
/// Warm sandboxes that are tried for one request before it gets one of its own.
const TRIES: usize = 3;
/// Between two looks at whether one has gone.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a launch waits for the end of a pooled sandbox that takes its place.
const GIVES_WAY_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    kinds: Mutex<Vec<Kind>>,
    /// When the last one was handed out.
    handed_out: Mutex<Option<Instant>>,
    /// Something for the keeper to do.
    work: Notify,
    /// A pooled sandbox has been destroyed.
    gone: Notify,
    /// Launches that somebody waits for.
    foreground: AtomicUsize,
    pub(crate) counts: Counts,
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) ready: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) made: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// What there is of one template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolFigures {
    /// Sandboxes that wait.
    pub warm: u64,
    /// As many as what was asked for lately needs.
    pub target: u64,
}

/// The sandboxes of one shape.
#[derive(Debug)]
struct Kind {
    shape: Shape,
    /// Whose images its image is looked up among.
    tenant: Tenant,
    /// What is launched.
    spec: SandboxSpec,
    warmth: Warmth,
    /// Kept whether anybody asks or not.
    is_pinned: bool,
    demand: Demand,
    warm: VecDeque<Warm>,
    making: usize,
    /// Failures one after the other, and until when none is made because of them.
    failures: u32,
    rests_until: Instant,
    /// Its image is another by now.
    is_outdated: bool,
}

impl Kind {
    fn new(shape: Shape, tenant: &Tenant, spec: &SandboxSpec, warmth: Warmth, now: Instant) -> Self {
        Self {
            shape,
            tenant: tenant.clone(),
            spec: shape::before(spec),
            warmth,
            is_pinned: false,
            demand: Demand::new(now),
            warm: VecDeque::new(),
            making: 0,
            failures: 0,
            rests_until: now,
            is_outdated: false,
        }
    }

    /// How many there should be.
    fn target(&mut self, now: Instant) -> usize {
        if self.is_outdated {
            return 0;
        }
        let min = if self.is_pinned { self.warmth.min } else { 0 };
        let warmth = Warmth { min, max: self.warmth.max, ..Warmth::default() };
        self.demand.target(now, &warmth) as usize
    }
}

/// A launch that somebody waits for; the pool stands back as long as it goes on.
#[derive(Debug)]
pub(crate) struct Foreground(Arc<Core>);

impl Foreground {
    pub(crate) fn begin(core: &Arc<Core>) -> Option<Self> {
        core.pool.as_ref()?.foreground.fetch_add(1, Ordering::AcqRel);
        Some(Self(Arc::clone(core)))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Some(pool) = &self.0.pool {
            pool.foreground.fetch_sub(1, Ordering::AcqRel);
            pool.work.notify_one();
        }
    }
}

/// A warm sandbox that is what `spec` asks for, if there is one. Its image has been looked up.
pub(crate) async fn take(core: &Arc<Core>, tenant: &Tenant, spec: &SandboxSpec) -> Option<Warm> {
    let pool = core.pool.as_ref()?;
    let warmth = shape::warmth(spec)?.into_owned();
    let shape = Shape::of(spec);
    if !shape::env_can_come_late(spec) {
        pool.counts.misses.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    pool.asked(&shape, tenant, spec, warmth);
    for _ in 0..TRIES {
        let Some(mut warm) = pool.pop(&shape) else { break };
        match warm.suit(core, spec).await {
            Ok(()) => {
                pool.counts.hits.fetch_add(1, Ordering::Relaxed);
                return Some(warm);
            }
            Err(NotSuited::Cannot) => {
                pool.put_back(&shape, warm);
                break;
            }
            Err(NotSuited::Dead) => pool.drop_one(warm),
        }
    }
    pool.counts.misses.fetch_add(1, Ordering::Relaxed);
    None
}

/// Makes pooled sandboxes give way until there are no more sandboxes than there may be, or none of them can.
pub(crate) async fn give_way(core: &Core) {
    let Some(pool) = &core.pool else { return };
    let deadline = Instant::now() + GIVES_WAY_WITHIN;
    while core.registry.is_crowded() && Instant::now() < deadline {
        let mut gone = std::pin::pin!(pool.gone.notified());
        gone.as_mut().enable();
        pool.evict();
        // Whether one has gone shows at the next look. One that is just being made cannot be ended before it is.
        tokio::time::timeout(LOOK_AGAIN, gone).await.ok();
    }
}

impl Pool {
    /// Notes that somebody asks for this.
    fn asked(&self, shape: &Shape, tenant: &Tenant, spec: &SandboxSpec, warmth: Warmth) {
        let now = Instant::now();
        let mut kinds = self.kinds();
        let index = kinds.iter().position(|kind| kind.shape == *shape).or_else(|| {
            if kinds.len() >= MOST_KINDS {
                let least = least_asked(&mut kinds, now)?;
                self.drop_all(kinds.swap_remove(least).warm);
            }
            kinds.push(Kind::new(shape.clone(), tenant, spec, warmth.clone(), now));
            Some(kinds.len() - 1)
        });
        if let Some(kind) = index.and_then(|index| kinds.get_mut(index)) {
            kind.warmth = warmth;
            kind.is_outdated = false;
            kind.demand.asked(now);
        }
        drop(kinds);
        self.work.notify_one();
    }

    fn pop(&self, shape: &Shape) -> Option<Warm> {
        let warm = self.kinds().iter_mut().find(|kind| kind.shape == *shape)?.warm.pop_front()?;
        *self.handed_out.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Some(warm)
    }

    fn since_handed_out(&self) -> Option<Duration> {
        self.handed_out.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    fn put_back(&self, shape: &Shape, warm: Warm) {
        match self.kinds().iter_mut().find(|kind| kind.shape == *shape) {
            Some(kind) => kind.warm.push_front(warm),
            None => self.drop_one(warm),
        }
    }

    fn drop_one(&self, warm: Warm) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        drop(warm);
    }

    fn drop_all(&self, all: VecDeque<Warm>) {
        all.into_iter().for_each(|warm| self.drop_one(warm));
    }

    /// Ends the one that is needed least.
    fn evict(&self) {
        let now = Instant::now();
        let mut kinds = self.kinds();
        let rates = kinds.iter_mut().enumerate().filter(|(_, kind)| !kind.warm.is_empty()).map(|(n, kind)| (kind.demand.rate(now), n));
        if let Some((_, least)) = rates.min_by(|a, b| a.0.total_cmp(&b.0))
            && let Some(warm) = kinds[least].warm.pop_front()
        {
            self.drop_one(warm);
        }
    }

    /// What is kept whether anybody asks or not: the recipes of the operator's templates, their images looked up among this tenant's, and the
    /// names of all that there are.
    fn pin(&self, tenant: &Tenant, wanted: Vec<SandboxSpec>, names: &[String]) {
        let now = Instant::now();
        let mut kinds = self.kinds();
        kinds.iter_mut().for_each(|kind| kind.is_pinned = false);
        for spec in wanted {
            let Some(warmth) = shape::warmth(&spec) else { continue };
            let (shape, warmth) = (Shape::of(&spec), warmth.into_owned());
            let index = kinds.iter().position(|kind| kind.shape == shape).unwrap_or_else(|| {
                kinds.push(Kind::new(shape, tenant, &spec, warmth.clone(), now));
                kinds.len() - 1
            });
            let kind = &mut kinds[index];
            (kind.is_pinned, kind.is_outdated) = (true, false);
            // Until somebody asks for one with other limits, those of the template are the ones to launch with.
            (kind.warmth, kind.spec) = (warmth, shape::before(&spec));
        }
        // A template that says something else by now, or is gone, makes the old kind nobody's. So does a dialect that has another image.
        let pinned: Vec<(Shape, Recipe)> =
            kinds.iter().filter(|kind| kind.is_pinned).map(|kind| (kind.shape.clone(), kind.spec.recipe.clone())).collect();
        for kind in kinds.iter_mut().filter(|kind| !kind.is_pinned && kind.shape.is_of_operator()) {
            let is_there = match kind.shape.template() {
                Some(name) => names.iter().any(|there| there == name),
                None => pinned.iter().any(|(shape, _)| shape.is_kin(&kind.shape) && shape.image().name() == kind.shape.image().name()),
            };
            let is_other = pinned.iter().any(|(shape, recipe)| shape.is_kin(&kind.shape) && *recipe != kind.spec.recipe);
            kind.is_outdated |= !is_there || is_other;
        }
        drop(kinds);
        self.work.notify_one();
    }

    /// Ends those that are made of an image.
    fn drop_of_image(&self, id: Digest) {
        for kind in self.kinds().iter_mut().filter(|kind| kind.shape.image().id() == Some(id)) {
            kind.is_outdated = true;
            self.drop_all(std::mem::take(&mut kind.warm));
        }
    }

    /// Whether some of this image are being made, or any at all are being destroyed.
    fn is_busy_with(&self, id: Digest, core: &Core) -> bool {
        let (pooled, _) = core.registry.pooled_and_waiting();
        let kinds = self.kinds();
        let there: usize = kinds.iter().map(|kind| kind.warm.len() + kind.making).sum();
        pooled > there || kinds.iter().any(|kind| kind.making > 0 && kind.shape.image().id() == Some(id))
    }

    /// Ends all.
    pub(crate) fn clear(&self) {
        let kinds = std::mem::take(&mut *self.kinds());
        kinds.into_iter().for_each(|kind| self.drop_all(kind.warm));
    }

    /// What there is of the template of this name, the operator's or this tenant's own.
    pub(crate) fn figures_of(&self, template: &str, owner: Option<&Tenant>) -> PoolFigures {
        let is_of = |kind: &Kind| {
            kind.shape.template() == Some(template) && kind.spec.recipe.warm.as_ref().and_then(|warm| warm.owner.as_ref()) == owner
        };
        self.sum(is_of)
    }

    /// All of it in numbers.
    pub(crate) fn snapshot(&self) -> PoolSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let PoolFigures { warm, target } = self.sum(|_| true);
        let Counts { hits, ready, misses, made, failed, dropped } = &self.counts;
        let (hits, ready, misses) = (load(hits), load(ready), load(misses));
        PoolSnapshot { warm, target, hits, ready, misses, made: load(made), failed: load(failed), dropped: load(dropped) }
    }

    fn sum(&self, is_of: impl Fn(&Kind) -> bool) -> PoolFigures {
        let now = Instant::now();
        let mut sum = PoolFigures::default();
        for kind in self.kinds().iter_mut().filter(|kind| is_of(kind)) {
            sum.warm += kind.warm.len() as u64;
            sum.target += kind.target(now) as u64;
        }
        sum
    }

    fn kinds(&self) -> MutexGuard<'_, Vec<Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// What the operator's templates and the server's dialects have kept warm; takes the place of what was said before. Those whose image is not here are left out, and
    /// so is everything where there is no pool.
    pub async fn keep_warm(&self, wanted: Vec<SandboxSpec>) {
        let Some(pool) = &self.core.pool else { return };
        let tenant = Tenant::default();
        let names: Vec<String> = wanted.iter().filter_map(|spec| spec.recipe.template.clone()).collect();
        let mut here = Vec::with_capacity(wanted.len());
        for mut spec in wanted {
            match images::resolve(&self.core, &tenant, &mut spec).await {
                Ok(_) => here.push(spec),
                Err(error) => tracing::debug!(%error, "A template's sandboxes cannot be kept warm"),
            }
        }
        pool.pin(&tenant, here, &names);
    }

    /// Whether anything is kept warm at all.
    #[must_use]
    pub fn has_pool(&self) -> bool {
        self.core.pool.is_some()
    }

    /// What is kept warm of a template: one of the tenant's own, or of the operator's.
    #[must_use]
    pub fn pool_of(&self, template: &str, is_own: bool) -> Option<PoolFigures> {
        Some(self.core.pool.as_ref()?.figures_of(template, is_own.then_some(&self.tenant)))
    }

    /// Ends warm sandboxes that are made of this image, so that they do not keep it from being removed. Returns when they are gone, or after a
    /// while.
    pub async fn let_go_of_image(&self, name: &str) {
        let Some(pool) = &self.core.pool else { return };
        let mut spec = SandboxSpec { image: Image::Named { name: name.to_owned(), id: None }, ..SandboxSpec::default() };
        // What is not here is nowhere in use, and whoever removes it says so.
        let Some(id) = images::resolve(&self.core, &self.tenant, &mut spec).await.ok().and_then(|_| spec.image.id()) else { return };
        let deadline = Instant::now() + GIVES_WAY_WITHIN;
        loop {
            let mut gone = std::pin::pin!(pool.gone.notified());
            gone.as_mut().enable();
            pool.drop_of_image(id);
            if !pool.is_busy_with(id, &self.core) || tokio::time::timeout_at(deadline, gone).await.is_err() {
                return;
            }
        }
    }
}

/// The kind that was asked for least lately, of those that nothing else keeps.
fn least_asked(kinds: &mut [Kind], now: Instant) -> Option<usize> {
    let rates = kinds.iter_mut().enumerate().filter(|(_, kind)| !kind.is_pinned && kind.making == 0);
    rates.map(|(n, kind)| (kind.demand.rate(now), n)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, n)| n)
}
