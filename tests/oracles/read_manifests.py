"""Reads Kubernetes manifests with the models of Kubeflow Trainer's API, which know JobSet and Kubernetes too.

Usage: read_manifests.py FILE HOSTS RANKS_PER_HOST [mpi]
"""

import sys
from pathlib import Path

import yaml
from kubeflow_trainer_api import models

file, hosts, ranks_per_host = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
mpi = sys.argv[4:] == ["mpi"]


def strictly(model, document):
    """Unknown fields are dropped by the models: nothing may be missing afterwards."""
    parsed = model.from_dict(document)
    assert parsed.to_dict() == document, f"\n{parsed.to_dict()}\nis not\n{document}"
    return parsed


runtime, job = yaml.safe_load_all(file.read_text())
assert runtime["kind"] == "TrainingRuntime" and job["kind"] == "TrainJob"
runtime = strictly(models.TrainerV1alpha1TrainingRuntime, runtime)
job = strictly(models.TrainerV1alpha1TrainJob, job)

assert runtime.api_version == job.api_version == "trainer.kubeflow.org/v1alpha1"
reference = job.spec.runtime_ref
assert (reference.kind, reference.name) == ("TrainingRuntime", runtime.metadata.name)
assert runtime.spec.ml_policy.num_nodes == job.spec.trainer.num_nodes == hosts

jobs = {job.name: job.template for job in runtime.spec.template.spec.replicated_jobs}
trainer = jobs["launcher" if mpi else "node"]
assert trainer.metadata.labels == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
pod = trainer.spec.template.spec
assert pod.restart_policy == "OnFailure"
[container] = pod.containers
assert container.name == "node", "the controller looks for it by this name"
assert "--resume" in " ".join(container.command)
if not mpi:
    assert runtime.spec.ml_policy.mpi is None
    assert set(jobs) == {"node"}
    # The controller makes as many pods of it as there are nodes, and JobSet numbers them.
    assert trainer.spec.completion_mode in (None, "Indexed")
    if hosts == 1:
        assert container.command[:2] == ["streamrec", "launch"], container.command
    else:
        assert container.command[:2] == ["/bin/sh", "-c"], container.command
        first = f"{job.metadata.name}-node-0-0.{job.metadata.name}"
        assert f"--rdzv-endpoint {first}:29400" in container.command[2]
        assert f"--nnodes {hosts} " in container.command[2]
        assert runtime.spec.template.spec.network.publish_not_ready_addresses
else:
    assert runtime.spec.ml_policy.mpi.num_proc_per_node == ranks_per_host
    assert container.command[:2] == ["/bin/sh", "-c"], container.command
    assert f"mpirun --allow-run-as-root -n {hosts * ranks_per_host} " in container.command[2]
    assert set(jobs) == {"launcher", "node"}
print("the manifests are what they should be")
