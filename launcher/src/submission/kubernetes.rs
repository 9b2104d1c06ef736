//! Manifests for Kubernetes: a TrainingRuntime over a JobSet, and a TrainJob that uses it (Kubeflow Trainer 2,
//! `trainer.kubeflow.org/v1alpha1`: <https://kubeflow.org/docs/components/trainer/operator-guides/runtime>).

use std::fmt::Write;

use super::{Submission, SubmissionError, shell_line};

/// Where the volume with configurations, data and runs is mounted; relative paths start there.
const WORKSPACE: &str = "/workspace";

/// What a replicated job of the JobSet is for.
struct Role<'a> {
    name: &'a str,
    command: Vec<String>,
    /// Whether it is done when its command is, and gets the settings of the TrainJob's `trainer`.
    is_trainer: bool,
}

impl Submission {
    /// The manifests (`kubectl apply -f FILE`), as YAML.
    ///
    /// A pod a host runs its launcher. Over MPI, pods run `sshd`, and one of them `mpirun`, as the MPI policy of Kubeflow
    /// Trainer sets it up; the image must hold Open MPI and OpenSSH.
    ///
    /// # Errors
    /// When the image or the volume claim is missing, or the name makes no label.
    pub fn kubernetes(&self) -> Result<String, SubmissionError> {
        let missing = |what| SubmissionError::Missing {
            target: "a Kubernetes manifest",
            what,
        };
        let image = self.image.as_ref().ok_or(missing("a container image"))?;
        let claim = self.volume_claim.as_ref();
        let claim = claim.ok_or(missing("a volume claim with configurations, data and runs"))?;
        let name = self.label()?;
        let mut jobs = String::new();
        for role in self.roles(&name) {
            jobs.push_str(&self.replicated_job(&role, image, claim));
        }
        Ok(format!(
            "apiVersion: trainer.kubeflow.org/v1alpha1\n\
             kind: TrainingRuntime\n\
             metadata:\n  name: {name}\n\
             spec:\n  mlPolicy:\n    numNodes: {hosts}\n{mpi}  \
               template:\n    spec:\n{network}      replicatedJobs:\n{jobs}\
             ---\n\
             apiVersion: trainer.kubeflow.org/v1alpha1\n\
             kind: TrainJob\n\
             metadata:\n  name: {name}\n\
             spec:\n{deadline}  \
               runtimeRef:\n    apiGroup: trainer.kubeflow.org\n    kind: TrainingRuntime\n    name: {name}\n  \
               trainer:\n    numNodes: {hosts}\n",
            hosts = self.hosts,
            mpi = self.mpi_policy(),
            network = self.network(),
            deadline = self.deadline(),
        ))
    }

    fn roles(&self, name: &str) -> Vec<Role<'static>> {
        match self.starts_ranks() {
            true => self.mpi_roles(),
            false => vec![Role {
                name: "node",
                command: self.launcher(name),
                is_trainer: true,
            }],
        }
    }

    fn launcher(&self, name: &str) -> Vec<String> {
        if self.hosts == 1 {
            return self.host_command.clone();
        }
        // The first pod of the job, as JobSet names it; its name is known a little after it starts.
        let first = format!("{name}-node-0-0.{name}");
        let launcher = self.launcher_line("\"$JOB_COMPLETION_INDEX\"", &first);
        let script =
            format!("until getent hosts {first} >/dev/null; do sleep 1; done; exec {launcher}");
        ["/bin/sh", "-c", &script].map(str::to_owned).to_vec()
    }

    fn mpi_roles(&self) -> Vec<Role<'static>> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        // The controller writes the host file, and names it to mpirun by a variable.
        let mut mpirun = words(&format!("mpirun --allow-run-as-root -n {}", self.ranks()));
        let (ranks, cores) = (self.ranks_per_host, self.cores_per_rank);
        mpirun.extend(words(&format!(
            "--map-by ppr:{ranks}:node:PE={cores} --bind-to core"
        )));
        mpirun.extend(self.rank_command.iter().cloned());
        // mpirun passes SIGUSR1 on, by which ranks save and leave; at SIGTERM it kills them.
        let script = format!(
            "trap 'kill -USR1 $child' TERM; {} & child=$!; wait $child; wait $child",
            shell_line(&mpirun)
        );
        let mut command = words("/bin/sh -c");
        command.push(script);
        vec![
            Role {
                name: "launcher",
                command,
                is_trainer: true,
            },
            Role {
                name: "node",
                command: words("/usr/sbin/sshd -De"),
                is_trainer: false,
            },
        ]
    }

    fn mpi_policy(&self) -> String {
        if !self.starts_ranks() {
            return String::new();
        }
        format!(
            "    mpi:\n      numProcPerNode: {}\n      mpiImplementation: OpenMPI\n      \
             runLauncherAsNode: true\n",
            self.ranks_per_host
        )
    }

    /// Pods must find one another before they are ready; over MPI the job is done when mpirun is.
    fn network(&self) -> &'static str {
        match (self.hosts, self.mpi) {
            (1, _) => "",
            (_, false) => "      network:\n        publishNotReadyAddresses: true\n",
            (_, true) => {
                "      network:\n        publishNotReadyAddresses: true\n      \
                 successPolicy:\n        operator: All\n        targetReplicatedJobs:\n          - launcher\n"
            }
        }
    }

    fn deadline(&self) -> String {
        let line = |minutes| format!("  activeDeadlineSeconds: {}\n", minutes * 60);
        self.minutes.map(line).unwrap_or_default()
    }

    fn replicated_job(&self, role: &Role<'_>, image: &str, claim: &str) -> String {
        let labels = match role.is_trainer {
            true => {
                "            metadata:\n              labels:\n                \
                 trainer.kubeflow.org/trainjob-ancestor-step: trainer\n"
            }
            false => "",
        };
        let mut command = String::new();
        for word in &role.command {
            // Writing to a string does not fail.
            let _ = writeln!(command, "                        - {}", scalar(word));
        }
        let mut resources = format!("cpu: {}", self.cores_per_host());
        if let Some(memory) = self.memory_mib {
            let _ = write!(resources, ", memory: {memory}Mi");
        }
        format!(
            "        - name: {name}\n          template:\n{labels}            \
             spec:\n              backoffLimit: {restarts}\n              \
             template:\n                spec:\n                  restartPolicy: OnFailure\n                  \
             terminationGracePeriodSeconds: {grace}\n                  \
             containers:\n                    - name: node\n                      image: {image}\n                      \
             workingDir: {WORKSPACE}\n                      command:\n{command}                      \
             resources:\n                        requests: {{{resources}}}\n                        \
             limits: {{{resources}}}\n                      \
             volumeMounts:\n                        - {{name: workspace, mountPath: {WORKSPACE}}}\n                  \
             volumes:\n                    - name: workspace\n                      \
             persistentVolumeClaim: {{claimName: {claim}}}\n",
            name = role.name,
            restarts = self.max_restarts,
            grace = self.notice_s(),
            image = scalar(image),
            claim = scalar(claim),
        )
    }
}

/// A string as a double-quoted YAML scalar, which JSON's strings are (YAML 1.2, section 1.3).
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    use std::thread::sleep;
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process};

    use super::super::tests::{one_host, two_hosts, two_hosts_over_mpi};
    use super::*;

    #[test]
    fn what_a_pod_cannot_do_without_is_asked_for() {
        let without_image = Submission {
            image: None,
            ..one_host()
        };
        let message = without_image.kubernetes().unwrap_err().to_string();
        assert_eq!(message, "a Kubernetes manifest needs a container image");
        let without_claim = Submission {
            volume_claim: None,
            ..one_host()
        };
        let message = without_claim.kubernetes().unwrap_err().to_string();
        assert!(message.contains("volume claim"), "{message}");
    }

    #[test]
    fn every_host_runs_a_launcher_and_over_mpi_one_runs_mpirun() {
        let one = one_host().kubernetes().unwrap();
        assert!(
            one.contains("- \"launch\"\n") && !one.contains("mpi:"),
            "{one}"
        );
        let two = two_hosts().kubernetes().unwrap();
        assert!(!two.contains("mpi") && !two.contains("sshd"), "{two}");
        for part in [
            "numNodes: 2",
            "publishNotReadyAddresses: true",
            "--nnodes 2 --node-rank \\\"$JOB_COMPLETION_INDEX\\\" \
             --rdzv-endpoint kuairand-dcn-v2-node-0-0.kuairand-dcn-v2:29400",
            "cpu: 8",
        ] {
            assert!(two.contains(part), "{part} in {two}");
        }
        let two = two_hosts_over_mpi().kubernetes().unwrap();
        for part in [
            "mpi:",
            "mpirun --allow-run-as-root -n 4 ",
            " streamrec train ",
            "sshd",
            "cpu: 8",
        ] {
            assert!(two.contains(part), "{part} in {two}");
        }
    }

    #[test]
    fn a_pod_that_is_told_to_stop_lets_the_ranks_save() {
        let folder = tempfile::tempdir().unwrap();
        let mpirun = folder.path().join("mpirun");
        let text =
            "#!/bin/sh\ntrap 'exit 143' USR1\ntouch started\nwhile true; do sleep 0.05; done\n";
        fs::write(&mpirun, text).unwrap();
        fs::set_permissions(&mpirun, fs::Permissions::from_mode(0o755)).unwrap();
        let [launcher, _] = &two_hosts_over_mpi().roles("job")[..] else {
            panic!("two roles");
        };
        let path = format!(
            "{}:{}",
            folder.path().display(),
            std::env::var("PATH").unwrap()
        );
        let mut pod = Command::new(&launcher.command[0])
            .args(&launcher.command[1..])
            .current_dir(folder.path())
            .env("PATH", path)
            .spawn()
            .unwrap();
        while !folder.path().join("started").exists() {
            sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&pod), Signal::TERM).unwrap();
        assert_eq!(pod.wait().unwrap().code(), Some(143));
    }

    #[test]
    fn any_word_is_a_scalar() {
        assert_eq!(scalar("a: \"b\"\n\\"), r#""a: \"b\"\n\\""#);
    }
}
