"""From a file of your own molecules to new ones, in Python.

python examples/molecules/own_molecules.py examples.sdf new.sdf --steps 2000
"""

import argparse

import gendiff

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("examples", help="SDF, SMILES, XYZ or NPZ file")
parser.add_argument("output", help="SDF, SMILES, XYZ or NPZ file to write")
parser.add_argument("--run", default="runs/own", help="run folder to make")
parser.add_argument("--steps", type=int, default=2000, help="training steps")
arguments = parser.parse_args()

model = gendiff.train("molecules", [arguments.examples], arguments.run, steps=arguments.steps)
drawn = model.draw(100, seed=0, only=["valid", "connected"])
print(f"{100 * drawn.rate:.0f} % of {drawn.drawn} molecules are valid and connected")
model.write(drawn.records, arguments.output)
