//! What a sandbox is for good once it is launched, and what can still be said when it is handed out.

use std::{borrow::Cow, collections::BTreeMap};

use caisson_core::{Image, Limits, SandboxSpec, Storage, Warmth};

/// How many are kept of the built-in image for requests that name no template, at most.
const WITHOUT_TEMPLATE: Warmth = Warmth { min: 0, max: 4, env: BTreeMap::new(), owner: None, dialect: None, stay: 0, max_age: None };
/// Bytes of an environment that can be told to an agent that waits.
const MOST_ENV: usize = 48 << 10;

/// Requests of one shape can be given the same warm sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape(SandboxSpec);

impl Shape {
    /// Limits on processes, open files and processor time can be changed later. Memory and the number of processors cannot: programs read them
    /// from `/proc`, where they stand as they were at the launch.
    pub(crate) fn of(spec: &SandboxSpec) -> Self {
        let mut shape = before(spec);
        let Limits { pids, open_files, .. } = Limits::default();
        shape.limits = Limits { pids, open_files, cpu_millis: spec.limits.cpu_millis.div_ceil(1000) * 1000, ..spec.limits };
        Self(shape)
    }

    /// The template, for people.
    pub(crate) fn template(&self) -> Option<&str> {
        self.0.recipe.template.as_deref()
    }

    /// The dialect that wants it.
    pub(crate) fn dialect(&self) -> Option<&'static str> {
        self.0.recipe.warm.as_ref().and_then(|warm| warm.dialect)
    }

    /// Whether its template is the operator's, or it is a dialect's.
    pub(crate) fn is_of_operator(&self) -> bool {
        (self.0.recipe.template.is_some() || self.dialect().is_some())
            && self.0.recipe.warm.as_ref().is_some_and(|warm| warm.owner.is_none())
    }

    /// The image that it is made of.
    pub(crate) fn image(&self) -> &Image {
        &self.0.image
    }

    /// Whether it is of the same template, or for the same dialect, as another, which share one [`Warmth::max`].
    pub(crate) fn is_kin(&self, other: &Self) -> bool {
        let owner = |shape: &Self| shape.0.recipe.warm.as_ref().and_then(|warm| warm.owner.clone());
        let key = |shape: &Self| (shape.0.recipe.template.clone(), shape.dialect(), owner(shape));
        key(self) == key(other)
    }
}

/// How many are to be kept of what this spec asks for; `None` where nothing is.
pub(crate) fn warmth(spec: &SandboxSpec) -> Option<Cow<'_, Warmth>> {
    // Its ways out are judged for their owner, whom a warm one does not have yet.
    if !spec.network.is_none() {
        return None;
    }
    match (&spec.recipe.warm, &spec.recipe.template) {
        (Some(warmth), _) => (warmth.max > 0).then_some(Cow::Borrowed(warmth)),
        (None, None) if spec.image == Image::Host && spec.storage == Storage::Memory => Some(Cow::Owned(WITHOUT_TEMPLATE)),
        (None, _) => None,
    }
}

/// The spec of a sandbox that is made for nobody in particular: no value of a request's environment is in it.
pub(crate) fn before(spec: &SandboxSpec) -> SandboxSpec {
    let env = spec.recipe.warm.as_ref().map(|warm| warm.env.clone()).unwrap_or_default();
    SandboxSpec { env, weaker_limits: Vec::new(), ..spec.clone() }
}

/// Whether a warm sandbox can be told the environment that is asked for. Variables cannot be taken away, and what set-up has seen stays.
pub(crate) fn env_can_come_late(spec: &SandboxSpec) -> bool {
    let nothing = BTreeMap::new();
    let before = spec.recipe.warm.as_ref().map_or(&nothing, |warm| &warm.env);
    if *before == spec.env {
        return true;
    }
    let bytes: usize = spec.env.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
    spec.recipe.setup.is_empty() && bytes <= MOST_ENV && before.keys().all(|name| spec.env.contains_key(name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use caisson_core::{Recipe, SetupCommand, SetupStep};

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn spec(change: impl FnOnce(&mut SandboxSpec)) -> SandboxSpec {
        let warm = Some(Warmth { min: 1, max: 2, env: env(&[("A", "t")]), ..Warmth::default() });
        let recipe = Recipe { template: Some("t".to_owned()), warm, ..Recipe::default() };
        let mut spec = SandboxSpec { env: env(&[("A", "t")]), recipe, ..SandboxSpec::default() };
        change(&mut spec);
        spec
    }

    #[test]
    fn what_comes_late_makes_no_other_shape() {
        let same = [
            spec(|spec| spec.env = env(&[("A", "r"), ("B", "r")])),
            spec(|spec| spec.limits.pids = 9),
            spec(|spec| spec.limits.open_files = 99),
            spec(|spec| spec.limits.cpu_millis = 500),
            spec(|spec| spec.weaker_limits = vec!["cpus".to_owned()]),
        ];
        for spec in same {
            assert_eq!(Shape::of(&spec), Shape::of(&self::spec(|_| {})), "{spec:?}");
        }
    }

    #[test]
    fn everything_else_does() {
        let step = SetupStep { command: SetupCommand::Shell("true".to_owned()), within: Duration::from_secs(1) };
        let others = [
            spec(|spec| spec.limits.memory_bytes += 1),
            spec(|spec| spec.limits.cpu_millis = 1001),
            spec(|spec| spec.limits.disk_bytes += 1),
            spec(|spec| spec.limits.disk_inodes += 1),
            spec(|spec| spec.storage = Storage::Disk),
            spec(|spec| spec.backend = "other".to_owned()),
            spec(|spec| spec.hostname = "other".to_owned()),
            spec(|spec| spec.user = caisson_core::UserSpec::root()),
            spec(|spec| spec.work_dir = "/other".to_owned()),
            spec(|spec| spec.image = Image::Named { name: "other".to_owned(), id: None }),
            spec(|spec| spec.left_to_image.user = false),
            spec(|spec| spec.recipe.template = Some("other".to_owned())),
            spec(|spec| spec.recipe.setup = vec![step]),
            spec(|spec| drop(spec.recipe.interpreters.insert("python".to_owned(), vec!["/p".to_owned()]))),
            spec(|spec| spec.recipe.warm.as_mut().unwrap().owner = Some("other".parse().unwrap())),
            spec(|spec| spec.recipe.warm.as_mut().unwrap().dialect = Some("other")),
            spec(|spec| drop(spec.recipe.file_names.insert("python".to_owned(), "x.py".to_owned()))),
            spec(|spec| spec.recipe.warm.as_mut().unwrap().env = env(&[("A", "other")])),
        ];
        for spec in others {
            assert_ne!(Shape::of(&spec), Shape::of(&self::spec(|_| {})), "{spec:?}");
        }
    }

    #[test]
    fn no_value_of_a_request_is_in_a_sandbox_that_waits() {
        assert_eq!(before(&spec(|spec| spec.env = env(&[("A", "r"), ("SECRET", "r")]))).env, env(&[("A", "t")]));
        let without_template = SandboxSpec { env: env(&[("SECRET", "r")]), ..SandboxSpec::default() };
        assert!(before(&without_template).env.is_empty());
    }

    #[test]
    fn an_environment_comes_late_where_nothing_is_taken_away_and_nothing_has_seen_it() {
        assert!(env_can_come_late(&spec(|_| {})));
        assert!(env_can_come_late(&spec(|spec| spec.env = env(&[("A", "r"), ("B", "r")]))));
        assert!(!env_can_come_late(&spec(|spec| spec.env = env(&[("B", "r")]))));
        assert!(!env_can_come_late(&spec(|spec| drop(spec.env.insert("B".to_owned(), "x".repeat(MOST_ENV))))));
        let step = SetupStep { command: SetupCommand::Shell("true".to_owned()), within: Duration::from_secs(1) };
        let set_up = |spec: &mut SandboxSpec| spec.recipe.setup = vec![step.clone()];
        assert!(env_can_come_late(&spec(set_up)));
        assert!(!env_can_come_late(&spec(|spec| {
            set_up(spec);
            spec.env.insert("B".to_owned(), String::new());
        })));
    }

    #[test]
    fn templates_say_themselves_and_only_the_built_in_image_is_kept_without_one() {
        assert_eq!(warmth(&spec(|_| {})).unwrap().max, 2);
        assert_eq!(warmth(&SandboxSpec::default()).unwrap().max, WITHOUT_TEMPLATE.max);
        assert_eq!(warmth(&spec(|spec| spec.recipe.warm = None)), None);
        assert_eq!(warmth(&spec(|spec| spec.recipe.warm = Some(Warmth::default()))), None);
        assert_eq!(warmth(&SandboxSpec { storage: Storage::Disk, ..SandboxSpec::default() }), None);
        let image = Image::Named { name: "alpine".to_owned(), id: None };
        assert_eq!(warmth(&SandboxSpec { image, ..SandboxSpec::default() }), None);
    }
}
