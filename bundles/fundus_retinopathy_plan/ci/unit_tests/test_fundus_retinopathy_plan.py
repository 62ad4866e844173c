"""Unit test of fundus_retinopathy_plan, in the form of the model zoo's: python -m unittest FILE."""

import os
import shutil
import tempfile
import unittest
from pathlib import Path

from monai.bundle import ConfigWorkflow

from monai_plan.bundle.zoo.stand_in import stand_in_data

BUNDLE = str(Path(os.environ.get("BUNDLE_ROOT", Path(__file__).parents[2])))
SMALL = {
    "img_size": [16, 16],
    "z_dim": 16,
    "w_dim": 16,
    "channel_base": 64,
    "channel_max": 8,
    "total_images": 16,
    "epoch_images": 16,
    "batch_size": 4,
    "metric_images": 16,
    "backbone": "random",
    "autoencoder": None,
    "tensorboard": False,
}


class TestBundle(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.data = os.path.join(self.folder, "data")
        stand_in_data(BUNDLE, self.data)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def workflow(self, workflow_type, config, **override):
        workflow = ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=os.path.join(BUNDLE, "configs", config),
            meta_file=os.path.join(BUNDLE, "configs", "metadata.json"),
            logging_file=os.path.join(BUNDLE, "configs", "logging.conf"),
            bundle_root=BUNDLE,
            dataset_dir=self.data,
            output_dir=os.path.join(self.folder, "out"),
            device="cpu",
            **override,
        )
        workflow.initialize()
        self.assertEqual(workflow.check_properties(), [])
        return workflow

    def test_train_and_generate(self):
        trainer = self.workflow("train", "train.json", **SMALL)
        trainer.run()
        trainer.finalize()
        generator = os.path.join(self.folder, "out", "private", "model.pt")
        for label in range(5):
            preview = os.path.join(self.folder, f"class_{label}")
            inference = self.workflow(
                "inference", "inference.json", generator_file=generator, num_images=3, label=label, preview_dir=preview
            )
            inference.run()
            inference.finalize()
            self.assertEqual(len(os.listdir(preview)), 3)


if __name__ == "__main__":
    unittest.main()
