//! Which backends a client may have that asked for a name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Backend;
use super::names::Names;
use crate::config::Route;

/// The routes of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    names: Names<Arc<[usize]>>,
    /// For all other names, and for none. `None` if no backend is left for those.
    others: Option<Arc<[usize]>>,
}

impl Routes {
    /// Those of a configuration over the backends as they are now; one that is on its way out is for
    /// whom it was.
    #[must_use]
    pub fn new(routes: &[Route], backends: &[Backend]) -> Self {
        let barred = |wanted: &dyn Fn(&Backend) -> bool| -> Arc<[usize]> {
            let places = backends.iter().enumerate();
            places
                .filter(|(_, backend)| !backend.emergency && !wanted(backend))
                .map(|(place, _)| place)
                .collect()
        };
        let mut names = Names::default();
        for route in routes {
            let of_it = barred(&|backend| route.backends.contains(&backend.name));
            for name in &route.names {
                names.enter(name, Arc::clone(&of_it));
            }
        }
        let routed: BTreeSet<&String> = routes.iter().flat_map(|route| &route.backends).collect();
        let is_free = |backend: &Backend| !backend.emergency && !routed.contains(&backend.name);
        let others = backends.iter().any(is_free).then(|| barred(&is_free));
        Self { names, others }
    }

    /// Places of the backends that are not for a client which asked for this name. `None` if no backend
    /// is for it at all.
    #[must_use]
    pub fn barred(&self, name: Option<&str>) -> Option<&Arc<[usize]>> {
        name.and_then(|name| self.names.find(name)).or(self.others.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::proxy::tests::backend;

    fn route(names: &[&str], backends: &[&str]) -> Route {
        let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Route { names: owned(names), backends: owned(backends) }
    }

    fn barred(routes: &Routes, name: Option<&str>) -> Option<Vec<usize>> {
        routes.barred(name).map(|places| places.to_vec())
    }

    #[test]
    fn a_name_has_its_backends_and_the_others_are_for_all_other_names() {
        let mut backends: Vec<Backend> = (0..4).map(backend).collect();
        backends[3].emergency = true;
        let of_a = route(&["a.example", "*.a.example"], &["b1", "b2"]);
        let routes = Routes::new(std::slice::from_ref(&of_a), &backends);
        for name in ["a.example", "X.a.example"] {
            assert_eq!(barred(&routes, Some(name)), Some(vec![2]), "{name}");
        }
        for name in [None, Some("example"), Some("b.a.a.example")] {
            assert_eq!(barred(&routes, name), Some(vec![0, 1]), "{name:?}");
        }
        let routes = Routes::new(&[of_a, route(&["c.example"], &["b2", "b3"])], &backends);
        assert_eq!(barred(&routes, Some("c.example")), Some(vec![0]));
        assert_eq!(barred(&routes, Some("d.example")), None, "nobody is for it");
        assert_eq!(barred(&routes, None), None);
    }
}
