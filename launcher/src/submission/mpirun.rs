//! A command for Open MPI's `mpirun`.

use super::{Submission, SubmissionError, shell_line};

impl Submission {
    /// The command that starts all ranks by Open MPI. It does not start them again: `streamrec launch --backend mpi`
    /// does.
    ///
    /// # Errors
    /// When there are several hosts and not a name for each.
    pub fn mpirun(&self) -> Result<String, SubmissionError> {
        let names = self.host_names.len();
        if (self.hosts > 1 || names > 0) && names != self.hosts {
            return Err(SubmissionError::HostNames {
                expected: self.hosts,
                got: names,
            });
        }
        let mut words = vec![
            "mpirun".to_owned(),
            "-n".to_owned(),
            self.ranks().to_string(),
        ];
        if names > 0 {
            let slots = |name: &String| format!("{name}:{}", self.ranks_per_host);
            let hosts: Vec<_> = self.host_names.iter().map(slots).collect();
            words.extend(["--host".to_owned(), hosts.join(",")]);
        }
        let (ranks, cores) = (self.ranks_per_host, self.cores_per_rank);
        words.extend([
            "--map-by".to_owned(),
            format!("ppr:{ranks}:node:PE={cores}"),
        ]);
        words.extend(["--bind-to".to_owned(), "core".to_owned()]);
        Ok(format!(
            "{} {}\n",
            shell_line(&words),
            shell_line(&self.rank_command)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{one_host, two_hosts};
    use super::*;

    #[test]
    fn ranks_are_mapped_to_hosts_and_bound_to_cores() {
        assert_eq!(
            two_hosts().mpirun().unwrap(),
            "mpirun -n 4 --host node-a:2,node-b:2 --map-by ppr:2:node:PE=4 --bind-to core \
             streamrec train run.toml --set 'name='\\''a'\\''' --resume\n"
        );
        let one = one_host().mpirun().unwrap();
        assert!(
            one.starts_with("mpirun -n 2 --map-by ppr:2:node:PE=4 "),
            "{one}"
        );
    }

    #[test]
    fn hosts_without_names_are_refused() {
        let nameless = Submission {
            host_names: vec!["node-a".to_owned()],
            ..two_hosts()
        };
        assert_eq!(
            nameless.mpirun(),
            Err(SubmissionError::HostNames {
                expected: 2,
                got: 1
            })
        );
    }
}
